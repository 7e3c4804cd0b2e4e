# The commands with all that they need, for a GPU or without one. How to run it: docs/clusters.md.
#
#   docker build -t echo-from-noise .
FROM nvidia/cuda:13.0.0-base-ubuntu24.04

# A compiler: Triton builds the launchers of its kernels with it. Everything else of CUDA comes with torch.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The exact set that is tested, in a layer that only a change of the lock file makes anew. MPI and mpiexec are the wheel
# mpich; `--build-arg MPI=system` leaves it out where the host's MPI is brought into the container.
ARG MPI=wheel
COPY requirements.lock /tmp/requirements.lock
RUN if [ "$MPI" = system ]; then sed -i '/^mpich==/d' /tmp/requirements.lock; fi \
    && python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -r /tmp/requirements.lock
ENV PATH=/opt/venv/bin:$PATH \
    NO_ALBUMENTATIONS_UPDATE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /echo
COPY . .

CMD ["bash"]
