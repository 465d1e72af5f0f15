# syntax=docker/dockerfile:1
# The image of host, bridge and migrations: the one binary, spin.toml, the components and the
# migrations. docker-compose.yml runs it three times; docs/deploy.md.

FROM rust:1.95.0-slim-bookworm AS build
# librdkafka is built by configure and make.
RUN apt-get update -q && apt-get install -qy --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
RUN rustup target add wasm32-wasip2
WORKDIR /build
COPY . .
# The caches outlive the image's layers, so dependencies are compiled once. Our own sources are marked
# as new: cargo and tools/build go by times, and those of another checkout may be older than the cache.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,sharing=locked \
    find . -path ./target -prune -o -type f -exec touch {} + && \
    tools/build && infra/innover/stage /stage

FROM debian:12.12-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="innover" \
    org.opencontainers.image.description="An event-driven payments platform of WebAssembly components" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.licenses="Apache-2.0"
# A number, so that a cluster can see that it is not root. The state folder is its own: a named volume
# takes owner and mode from here when it is first used.
RUN groupadd --gid 10001 innover && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/innover --shell /usr/sbin/nologin innover && \
    install -d -m 700 -o 10001 -g 10001 /var/lib/innover
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /stage/ /
USER 10001:10001
WORKDIR /opt/innover
# The dev profile has users whose passwords everybody knows: whoever wants it says so.
ENV INNOVER_STATE_DIR=/var/lib/innover INNOVER_PROFILE=prod
VOLUME /var/lib/innover
EXPOSE 3000 3001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=180s --retries=6 CMD ["/usr/local/bin/innover-ready"]
ENTRYPOINT ["innover"]
CMD ["up"]
