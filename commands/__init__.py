"""Commands of the front door that would not fit in its file. Imports are lazy, logic lives in the packages."""
