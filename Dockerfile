# Stock tritonserver with libtriton_vllm.so in place of the Python vLLM backend, built from source. The files of a
# release bring a Dockerfile of their own that only copies (ci/package.py).
#
#   docker build -t triton-vllm .                                         the newest image this was tried with
#   docker build -t triton-vllm --build-arg TRITON_IMAGE=nvcr.io/nvidia/tritonserver:25.10-py3 .
#   docker build --target library --output out .                          the library alone, into out/
#
# Any tritonserver from 2.36 (23.07) on serves it. The image must hold cuBLASLt 12 or 13 for GPUs, which the
# `-py3` images do; a `-min` image lacks it. No Python is needed at run time.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:25.10-py3

# glibc 2.35, the oldest of the supported images: what is linked here loads in all of them.
FROM ubuntu:22.04 AS build
ARG RUST_VERSION=1.95.0
# A download that fails must not end in a shell that runs nothing.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates curl gcc libc6-dev python3 python3-venv && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs \
        | sh -s -- -y --profile minimal --default-toolchain ${RUST_VERSION}
ENV PATH=/root/.cargo/bin:$PATH
WORKDIR /src
COPY ci/setup ci/requirements.txt ci/requirements-build.txt ci/
RUN ci/setup --build
COPY Cargo.toml Cargo.lock build.rs LICENSE ./
COPY build build
COPY examples examples
COPY src src
RUN cargo build --profile dist --locked --lib && strip target/dist/libtriton_vllm.so

FROM scratch AS library
COPY --from=build /src/target/dist/libtriton_vllm.so /

FROM ${TRITON_IMAGE}
COPY --from=build /src/target/dist/libtriton_vllm.so /opt/tritonserver/backends/vllm/
COPY LICENSE /opt/tritonserver/backends/vllm/LICENSE.libtriton_vllm
COPY model_repository /opt/tritonserver/samples/vllm
# 8000 HTTP, 8001 gRPC, 8002 metrics
EXPOSE 8000 8001 8002
CMD ["tritonserver", "--model-repository=/models"]
