"""A corpus's manifest for people: what was read, what each stage did, what each side holds."""

from isoflop.experiments.data.corpus import Corpus


def manifest_text(corpus: Corpus) -> str:
    """Lines of counts that add up from the files to the tokens."""
    said = corpus.manifest
    lines = [f"corpus {said['name']} {corpus.corpus_id} in {corpus.folder}"]
    lines += [f"licence: {said['licence']}"]
    if "read" in said:
        lines.append(f"read {said['read']['documents']:,} documents, {said['read']['bytes']:,} bytes")
        lines += [f"skipped {count:,}: {reason}" for reason, count in said["skipped"].items()]
        for stage in said["stages"]:
            lines.append(
                f"  {stage['stage']:<16} in {stage['documents']:>9,}  changed {stage['changed']:>8,}  "
                f"dropped {stage['dropped']:>8,}  bytes removed {stage['bytes_removed']:>12,}"
            )
    for side in ("train", "held_out"):
        count = said[side]
        text = f", {count['bytes']:,} bytes" if count.get("bytes") else ""
        lines.append(f"{side}: {count['documents']:,} documents, {count['tokens']:,} tokens{text}")
    per_token = "" if said["bytes_per_token"] is None else f", {corpus.bytes_per_token:.3f} bytes/token held out"
    lines.append(f"tokenizer {corpus.tokenizer_id}, {corpus.vocab_size:,} tokens{per_token}")
    return "\n".join(lines)
