# CloakBench with its pinned packages: docs/container.md says how it is run.
FROM python:3.12.7-slim-bookworm@sha256:032c52613401895aa3d418a4c563d2d05f993bc3ecc065c8f4e2280978acd249

# brisque and others compile a little when they are installed
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /cloakbench
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock

COPY . .
# whoever `docker run --user` names writes results, Snakemake's notes and caches here
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && useradd --create-home cloak \
    && chmod -R a+rwX . /home/cloak
ENV HOME=/home/cloak LOGNAME=cloak PYTHONDONTWRITEBYTECODE=1
USER cloak
ENTRYPOINT ["snakemake"]
