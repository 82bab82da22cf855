#!/bin/sh
# Makes the Go code of tether.proto anew: go generate ./tether/link/v1
# Needs protoc 3.21.12, which is Debian 12's package protobuf-compiler; the plugins are those of go.mod.
set -eu
command -v protoc >/dev/null || { echo "protoc is missing, try: apt-get install protobuf-compiler" >&2; exit 1; }
plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
go build -o "$plugins" google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc
PATH="$plugins:$PATH" protoc --go_out=. --go_opt=paths=source_relative \
	--go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative tether.proto
