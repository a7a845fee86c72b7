# A run's model over HTTP, as `isoflop serve` gives it.
# Not built here: there was no Docker engine. tests/test_dockerfile.py holds it to pyproject.toml and to the commands.
# It runs as user 1000, who must be able to write in the runs folder (the export goes there): else add --user.
# For GPUs take vLLM's own image and the command that `isoflop serve` prints.
#   docker build -t isoflop .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs:/runs" isoflop RUN_ID
FROM python:3.11-slim
WORKDIR /isoflop
COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e '.[serve]' && useradd --create-home --uid 1000 isoflop
USER isoflop
EXPOSE 8000
VOLUME /runs
HEALTHCHECK --start-period=2m CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["isoflop", "serve", "--runs", "/runs", "--host", "0.0.0.0", "--port", "8000"]
