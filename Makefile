# What is done with this repository. Nothing is needed but Go, git and make;
# what needs root or a package says so, and with CI=true or INSTALL=1 installs it.

SHELL := /bin/sh
.DEFAULT_GOAL := help

BIN := $(CURDIR)/bin
TOOLS := $(BIN)/tools
PROGRAMS := clustermesh-apiserver node-agent causeway
SPACE := $(subst ,, )
GENERATED := bpf pkg \( -name '*_bpfel*' -o -name '*.pb.go' \)
FUZZTIME ?= 1m
# What make test does, one after the other.
STEPS ?= lint verify test-conformance test-kube test-kernels test-kind test-rest
# The packages whose tests start Kubernetes control planes.
KUBE = $(sort tests/kubelab $(patsubst %/,%,$(dir $(shell grep -rl --include='*_test.go' '/tests/kubelab"' pkg tests clustermesh-apiserver causeway))))
# The packages that link Helm beside the command line's own; tag nokubernetes leaves it out there.
HELM = causeway/install causeway/release
RACE = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)
# Some tests build programs of their own, which go test does not see: what it remembers of them may be of older ones.
UNCACHED = -count=1
SUMMARY = go run ./tests/summary $(if $(filter true,$(CI)),-no-skips) --

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the programs into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 go build -trimpath -o $(BIN)/ $(addprefix ./,$(PROGRAMS))

.PHONY: images
images: ## the daemons' container images in one archive, out/images.tar (no docker, no registry; TAG=v1, ARCH=arm64)
	@mkdir -p out/images
	CGO_ENABLED=0 GOARCH=$(ARCH) go build -buildvcs=auto -trimpath -ldflags '-s -w' -o out/images/ ./clustermesh-apiserver ./node-agent
	@go run ./deploy/images $(if $(ARCH),-arch $(ARCH)) -binaries out/images -output out/images.tar -tag "$(or $(TAG),$(shell git describe --tags --always --dirty))"

.PHONY: demo
demo: ## show one service answered by two clusters (root; KEEP=1 leaves it up)
	@go run ./tests/demo $(if $(KEEP),--keep) $(if $(DOWN),--down $(DOWN))

# The scenarios take longest, so they begin first. Control planes have their own
# step: what they start on would make the others wait.
.PHONY: test
test: ## lint, verify, and run all tests (with CI=true nothing may be skipped)
	@if [ "$$CI" = true ] || [ "$(INSTALL)" = 1 ]; then tools/need "make test" gcc libc6-dev clang-19 llvm-19 protobuf-compiler libprotobuf-dev iproute2 iptables nftables e2fsprogs util-linux containernetworking-plugins; fi
	@$(MAKE) --no-print-directory $(STEPS)

.PHONY: test-rest
test-rest:
	@[ -n "$(RACE)" ] || echo "no C compiler: the tests run without the race detector (make test INSTALL=1 installs gcc)"
	@[ "$$(id -u)" = 0 ] || echo "not root: tests of namespaces, cgroups and eBPF will not run; they are listed at the end"
	@$(SUMMARY) $(RACE) -tags nokubernetes -timeout 20m ./tests/scenarios $$(go list ./... | grep -vE '/($(subst $(SPACE),|,$(KUBE) tests/kind tests/kernels $(HELM)))$$')
	@[ -z "$(RACE)" ] || echo "without the race detector, for which Helm takes minutes to compile:"
	@$(SUMMARY) ./causeway $(addprefix ./,$(HELM))
	@[ -z "$(RACE)" ] || echo "without the race detector, which would slow it down:"
	@[ -z "$(RACE)" ] || $(SUMMARY) -run '^TestChurn$$' ./pkg/datapath

.PHONY: test-fast
test-fast: lint ## lint and all tests but those that need what is built for them (root)
	@go run ./tests/summary -- $(RACE) -short -timeout 20m ./tests/scenarios ./...

.PHONY: test-kube
test-kube: kubernetes ## what follows the Kubernetes API against real control planes and a node (root; built once, minutes)
	@if [ "$$CI" = true ] || [ "$(INSTALL)" = 1 ]; then tools/need "make test-kube" containerd runc iproute2 nftables containernetworking-plugins; fi
	@go run ./tests/kind/build coredns
	@$(SUMMARY) $(RACE) $(UNCACHED) -timeout 20m $(addprefix ./,$(KUBE))

.PHONY: test-kind
test-kind: ## two real kind clusters, made here without a registry (root; built once, 10 minutes; CLUSTERS=3 for a third, KEEP=1 leaves them up)
	@if [ "$$CI" = true ] || [ "$(INSTALL)" = 1 ]; then tools/need "make test-kind" docker.io debootstrap jq containerd runc iproute2 iptables nftables util-linux gcc libc6-dev; fi
	@KEEP=$(KEEP) CLUSTERS=$(CLUSTERS) $(SUMMARY) $(UNCACHED) -timeout 60m ./tests/kind

.PHONY: test-kernels
test-kernels: ## the eBPF programs on Linux 5.10, 6.1 and 6.12, in emulated machines (root, Debian; kernels are downloaded once)
	@if [ "$$CI" = true ] || [ "$(INSTALL)" = 1 ]; then tools/need "make test-kernels" qemu-system-x86 iproute2 iptables nftables xz-utils; fi
	@$(SUMMARY) $(UNCACHED) -timeout 70m ./tests/kernels

.PHONY: test-conformance
test-conformance: ## hold what we publish and read against Cilium itself (built once, minutes)
	@tests/conformance/run.sh

.PHONY: kubernetes
kubernetes: ## build the Kubernetes binary that tests start (once, minutes)
	@go run ./tests/kubelab/build

.PHONY: test-stall
test-stall: ## hold up each stage of the sync for 30 s under load (root; 5 s in make test)
	go test -count=1 -v -run TestStall ./tests/stall -stall 30s

.PHONY: test-faults
test-faults: ## what clients see when parts fail, an API server for 60 s (root; 5 s in make test)
	go test -count=1 -v ./tests/faults -away 60s

.PHONY: test-hostile
test-hostile: ## peers that say and do what they may not, floods of a million keys (root; of 30,000 in make test)
	go test -count=1 -v ./tests/hostile -full

.PHONY: test-faces
test-faces: ## run the scenarios on every kind of network that the lab has (root)
	@if [ "$$CI" = true ] || [ "$(INSTALL)" = 1 ]; then tools/need "make test-faces" iptables containernetworking-plugins; fi
	go test -count=1 -timeout 60m -run 'TestScripts|TestCarried' ./tests/scenarios -face all

.PHONY: test-churn
test-churn: ## let 1,000 pods come and go in a minute (root; 5 s of it in make test)
	go test -count=1 -v -run TestCarriedChurn ./tests/scenarios -churn 60s

.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/actionlint ## gofumpt, go vet, staticcheck and a short list more; actionlint
	$(TOOLS)/golangci-lint run ./...
	$(TOOLS)/golangci-lint run --build-tags nokubernetes ./causeway
	$(TOOLS)/actionlint

.PHONY: format
format: $(TOOLS)/golangci-lint ## put the Go files into gofumpt's form
	$(TOOLS)/golangci-lint fmt ./...

.PHONY: generate
generate: $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## make the eBPF objects and the feed's protocol anew
	@tools/need "make generate" clang-19 llvm-19 protobuf-compiler libprotobuf-dev
	PATH="$(TOOLS):$$PATH" go generate ./bpf/... ./pkg/...

# Compared is what stood there before, whether committed or not. The comment in
# which protoc names itself says nothing about the code.
.PHONY: verify
verify: ## generate again and compare with what is there
	@if ! tools/need "make verify" clang-19 llvm-19 protobuf-compiler libprotobuf-dev; then \
		[ "$$CI" != true ] || exit 1; echo "generated files are not verified"; exit 0; \
	fi; \
	mkdir -p out; \
	export LC_ALL=C; \
	sums() { find $(GENERATED) | sort | while read -r file; do \
		echo "$$(grep -av '^// .*protoc  ' "$$file" | cksum) $$file"; done; }; \
	sums >out/generated.before && $(MAKE) --no-print-directory generate >out/generate.log 2>&1 || { cat out/generate.log; exit 1; }; \
	sums >out/generated.after; \
	if ! cmp -s out/generated.before out/generated.after; then \
		diff out/generated.before out/generated.after; \
		echo "generated files were not up to date: they are now, commit them"; exit 1; \
	fi

.PHONY: fuzz
fuzz: ## run each fuzz test for FUZZTIME (1m), those of FUZZ only if given
	@grep -rE --include='*_test.go' -o '^func Fuzz$(FUZZ)[A-Za-z0-9_]*' pkg | while IFS=: read -r file name; do \
		name=$${name#func }; echo "$$(dirname $$file) $$name"; \
		go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) ./$$(dirname $$file) || exit 1; \
	done

.PHONY: bench-connect
bench-connect: ## what a connection to a service costs, TCP and UDP (root)
	@if [ "$$CI" = true ] || [ "$(INSTALL)" = 1 ]; then tools/need "make bench-connect" iptables nftables; fi
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 go build -trimpath -o $(BIN)/bench ./tests/bench
	@$(BIN)/bench connect

.PHONY: bench-sync
bench-sync: ## what it takes to follow large clusters (root; ROWS=peer,churn for some rows, PROFILES=folder)
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 go build -trimpath -o $(BIN)/bench ./tests/bench
	@$(BIN)/bench sync -rows "$(ROWS)" -profiles "$(PROFILES)"

.PHONY: bench-packet
bench-packet: ## what the programs on the tunnel device cost a packet (root)
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 go build -trimpath -o $(BIN)/bench ./tests/bench
	@$(BIN)/bench packet

.PHONY: bench-throughput
bench-throughput: ## what carrying packets between two pods costs, by TCP and UDP (root)
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 go build -trimpath -o $(BIN)/bench ./tests/bench
	@$(BIN)/bench throughput

.PHONY: clean
clean: ## remove what was built
	rm -rf bin out

# Tools come from a module of their own, so that the product's stays small.
$(TOOLS)/golangci-lint: PACKAGE := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(TOOLS)/protoc-gen-go: PACKAGE := google.golang.org/protobuf/cmd/protoc-gen-go
$(TOOLS)/protoc-gen-go-grpc: PACKAGE := google.golang.org/grpc/cmd/protoc-gen-go-grpc
# A module of its own: it does not build with what golangci-lint brings.
$(TOOLS)/actionlint: tools/actionlint/go.mod
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 go build -C tools/actionlint -trimpath -o $@ github.com/rhysd/actionlint/cmd/actionlint
	@touch $@
$(TOOLS)/%: tools/go.mod
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 go build -C tools -trimpath -o $@ $(PACKAGE)
	@touch $@
