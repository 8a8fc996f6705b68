# Two commands set everything up on a fresh Debian machine: make demo, make test.

TAGS    := netgo osusergo seccomp urfave_cli_no_docs runc_nocriu
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BUILT   := $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.built=$(BUILT) -extldflags "-static"

build:
	go build -trimpath -tags "$(TAGS)" -ldflags '$(LDFLAGS)' -o bin/blackstart ./cmd/blackstart

.PHONY: build
