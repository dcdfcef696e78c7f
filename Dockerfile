# syntax=docker/dockerfile:1
# The server and its command line in a small image: docker build -t gatelog .

# Both stages are the same Debian, so that the binary finds the libraries it was linked with.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# The packages are those of every other build; scripts/setup is the only list of them.
COPY Cargo.toml ./
COPY scripts/setup scripts/
RUN scripts/setup
COPY . .
# Without the line tables, which are most of a release's size and of no use without the sources.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --release --locked --package gatelog --bin gatelog \
    && cp target/release/gatelog /usr/local/bin/gatelog

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 libstdc++6 zlib1g \
    && rm -rf /var/lib/apt/lists/*
# A number that no distribution gives away, and no shell to log in with. /secrets is where deploy/make-secrets may write.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin gatelog \
    && install -d -o gatelog -g gatelog -m 0700 /data /secrets
COPY --from=build /usr/local/bin/gatelog /usr/local/bin/gatelog

# A container is reached from outside itself. Gatelog still refuses to serve without encryption until it is told which
# proxy stands before it (GATELOG_TRUSTED_PROXIES), or that none need be (GATELOG_ALLOW_PLAIN_HTTP=true).
ENV GATELOG_DATA_DIR=/data GATELOG_LISTEN=0.0.0.0:8080
USER 10001:10001
VOLUME /data
EXPOSE 8080
# Requests that have begun are finished, which takes 10 s at most; give a stop longer than that.
STOPSIGNAL SIGTERM
# Whether the process answers. Whether it should get requests is /readyz, which is for load balancers. bash can ask by
# itself, so the image needs no HTTP client.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /healthz HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
ENTRYPOINT ["/usr/local/bin/gatelog"]
CMD ["serve"]
