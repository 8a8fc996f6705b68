# Two commands set everything up on a fresh Debian machine: make demo, make test.

SHELL   := /bin/bash
TAGS    := netgo osusergo seccomp urfave_cli_no_docs runc_nocriu nethttpomithttp2
MODULE  := github.com/blackstart-project/blackstart
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BUILT   := $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.built=$(BUILT) -extldflags "-static"

BUILD_PACKAGES := gcc libc6-dev libseccomp-dev pkg-config
DEMO_PACKAGES  := containerd runc etcd-server etcd-client umoci procps
TEST_PACKAGES  := $(DEMO_PACKAGES) docker.io podman crun conmon skopeo docker-registry busybox-static iproute2 jq python3 e2fsprogs strace minisign chromium chromium-driver poppler-utils python3-jsonschema openssh-server openssh-client nginx-light curl bind9-dnsutils bind9 bind9-utils knot knot-dnsutils nftables musl-tools zookeeper fuse-overlayfs dnsperf git zstd gnutls-bin certbot lego openssl graphviz openjdk-17-jdk-headless ca-certificates-java util-linux

comma := ,
space := $(subst ,, )

# Seconds for each fuzz target of make fuzz.
FUZZTIME ?= 30s

.PHONY: build demo test test-kernel rehearse test-vm bench lint fuzz packages-build

build: packages-build
	go build -trimpath -tags "$(TAGS)" -ldflags '$(LDFLAGS)' -o bin/blackstart ./cmd/blackstart

packages-build:
	@.ci/packages $(BUILD_PACKAGES)

# The whole story on real software, told step by step.
demo: build
	@.ci/packages $(DEMO_PACKAGES)
	@.ci/demo

# Everything that needs this machine only. A test that cannot run fails.
test: build test-kernel rehearse

test-kernel: packages-build
	@.ci/packages $(TEST_PACKAGES)
	@.ci/servers
	REQUIRE_KERNEL=1 go test -parallel 4 -tags "$(TAGS)" ./...

# The shipped runbooks in their vacuums, and two hidden dependencies that must be found.
rehearse: build
	@.ci/packages $(TEST_PACKAGES)
	@.ci/rehearse

# A stock Debian kernel with cgroup v2 only, under qemu.
test-vm: build
	@.ci/vm

bench: build
	@.ci/bench

lint: packages-build
	@.ci/packages shellcheck
	go vet -tags "$(TAGS)" ./...
	go mod tidy -diff
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 -tags "$(TAGS)" ./...
	test -z "$$(go run mvdan.cc/gofumpt@v0.12.0 -l . | tee /dev/stderr)"
	go run golang.org/x/tools/cmd/deadcode@v0.52.0 -test -tags "$(TAGS)" ./...
	go run github.com/kisielk/errcheck@v1.30.0 -tags "$(TAGS)" -ignoretests -exclude .ci/errcheck ./...
	go run github.com/polyfloyd/go-errorlint@v1.8.0 -tags "$(TAGS)" ./...
	GOFLAGS="-tags=$(subst $(space),$(comma),$(TAGS))" go run github.com/nishanths/exhaustive/cmd/exhaustive@v0.17.1 -d -typeonly "^$(MODULE)" ./...
	shellcheck -x $(filter-out .ci/errcheck .ci/bench-%,$(wildcard .ci/* cmd/blackstart/testdata/bin/*))

# Go's fuzzer may end with "context deadline exceeded" when its time is over: that
# alone is no finding.
fuzz:
	@set -eo pipefail; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	for p in $$(go list ./...); do \
		for f in $$(go test -tags "$(TAGS)" -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "$$p $$f"; \
			go test -tags "$(TAGS)" -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p | tee "$$log" || \
				{ grep -q 'context deadline exceeded' "$$log" && ! grep -q 'Failing input' "$$log"; }; \
		done; \
	done
