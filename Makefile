# Targets for people and for CI. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
OUT   := _output
TOOL  := go tool -modfile=go.tools.mod
VERSION := $(shell sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}/\1/p' charts/spiderpool/Chart.yaml)
ARCH  ?= $(shell go env GOARCH)
# What programs and images say of their source. The same of both, and the same Go, make the same bytes in any directory.
COMMIT ?= $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
ABOUT := github.com/spidernet-io/spiderpool/internal/buildinfo
STATIC = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X $(ABOUT).release=$(VERSION) -X $(ABOUT).commit=$(COMMIT)"
IMAGE  = go run ./build/image --revision "$(COMMIT)" --created $(SOURCE_DATE_EPOCH) $(foreach a,$(ARCH),--arch $a=$(OUT)/bin/$a)

# The parts of `make test`, in order. Each prints how long it took.
TESTS := unit images cni bench lab e2e

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the programs into _output/bin/ARCH; ARCH=arm64
	@for arch in $(ARCH); do GOOS=linux GOARCH=$$arch $(STATIC) -o $(OUT)/bin/$$arch/ ./cmd/... || exit 1; done

.PHONY: images
images: ARCH = amd64 arm64
images: build ## Build the images for amd64 and arm64 into _output as OCI archives; ARCH=amd64 for one
	@$(IMAGE) --name ghcr.io/spidernet-io/spiderpool/spiderpool-agent:$(VERSION) --out $(OUT)/spiderpool-agent-$(subst $() ,-,$(ARCH)).tar \
	  --description "Assigns the addresses of the pods of one node, and has the CNI plugin" spiderpool-agent spiderpool
	@$(IMAGE) --name ghcr.io/spidernet-io/spiderpool/spiderpool-controller:$(VERSION) --out $(OUT)/spiderpool-controller-$(subst $() ,-,$(ARCH)).tar \
	  --description "Admits edits of pools and counts their addresses" spiderpool-controller

.PHONY: generate
generate: ## Generate deep copies and CRDs from api/, and docs/values.md
	$(TOOL) controller-gen object paths=./api/...
	$(TOOL) controller-gen crd:generateEmbeddedObjectMeta=false paths=./api/... output:crd:dir=charts/spiderpool/files/generated/crds
	go run ./build/values > docs/values.md

.PHONY: lint
lint: ## Look for mistakes and bad habits
	$(TOOL) golangci-lint run ./...

# RUNLEVEL and SYSTEMD_OFFLINE keep packages from starting what they bring, as invoke-rc.d(8) and systemctl(1) go by them.
.PHONY: packages
packages: # Install the Debian packages that the lab needs, if any is missing
	@missing=$$(sed 's/#.*//' test/lab/packages.txt | grep -oE '[^[:space:]]+' | while read -r p; do \
	  dpkg-query -W -f='$${Status}\n' "$$p" 2>/dev/null | grep -q '^install ok installed' || echo "$$p"; done); \
	[ -z "$$missing" ] || { echo "installing" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 SYSTEMD_OFFLINE=1 apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }

.PHONY: parts
parts: packages # Build what the lab runs, if it is not in the cache
	@go run ./test/lab/cmd/lab build

.PHONY: test
test: packages ## Run all tests; prints the time of each part
	@start=$$SECONDS; \
	for part in parts $(addprefix test-,$(TESTS)); do \
	  began=$$SECONDS; echo "=== $$part"; \
	  if $(MAKE) --no-print-directory $$part; then echo "--- $$part: ok in $$((SECONDS-began)) s"; \
	  else echo "--- $$part: FAILED after $$((SECONDS-began)) s"; exit 1; fi; \
	done; echo "all tests passed in $$((SECONDS-start)) s"

.PHONY: test-unit
test-unit: # Packages by themselves and against a real API server; they mostly wait, the first two longest
	go test -race -count=1 -shuffle=on -p 3 ./internal/agent ./internal/controller $$(go list ./... | grep -vE '/test/|/build/') ./test/imports

.PHONY: test-images
test-images: # The images of both architectures, which a cold cache builds for minutes
	go test -count=1 -timeout 30m ./build/...

.PHONY: test-cni
test-cni: # Real main plugins in network namespaces
	go test -race -count=1 ./test/cni

.PHONY: test-bench
test-bench: # The benchmark in its smallest size
	go test -count=1 ./test/bench

.PHONY: test-lab
test-lab: # The lab itself
	go test -count=1 -timeout 20m ./test/lab/...

.PHONY: test-e2e
test-e2e: # Real pods on real kubelets; what takes nodes or the API server away has a cluster of its own meanwhile
	@mkdir -p $(OUT)
	@$(E2E) -run '$(APART)' ./test/e2e -lab e2e-nodes >$(OUT)/e2e-nodes.log 2>&1 & \
	$(E2E) -skip '$(APART)' ./test/e2e 2>&1 | tee $(OUT)/e2e.log | grep --line-buffered -vE $(STEPS); failed=$$?; \
	wait $$! || failed=1; grep -vE $(STEPS) $(OUT)/e2e-nodes.log; [ $$failed = 0 ] || \
	  { echo "what the tests said, again:"; grep -aE -A3 '^ +[a-z0-9]+_test\.go:[0-9]+: ' $(OUT)/e2e{,-nodes}.log | grep -av kubectl | cut -c1-500; exit 1; }
E2E   = go test -count=1 -timeout 30m -parallel 6 -v
APART = ^Test(Node|APIServer)
STEPS = '^=== (RUN|PAUSE|CONT|NAME)'

.PHONY: soak
soak: packages parts ## Run the big sizes of the scenarios, some four hours
	go test -count=1 -timeout 60m -v -run 'TestManyNodesOneAddress|TestHugePool|TestChurn' ./internal/agent -soak
	go test -count=1 -timeout 60m -v -run TestModel ./internal/agent -steps 20000
	go test -count=1 -timeout 60m -v -run 'TestSize|TestStatusCost|TestCollectionSize|TestManyAutomaticPools' ./internal/controller -soak
	go test -count=1 -timeout 60m -v -run TestAutoscaler ./test/bench -soak
	go test -count=1 -timeout 60m -v -run 'TestTwoApplicationsRolled|TestRebuild' ./test/e2e -soak
	go test -count=1 -timeout 120m -v -run 'TestEditRace|TestControllerAway' ./test/e2e -soak
	go test -count=1 -timeout 150m -v -run 'TestStatefulSetKeepsAddresses|TestTwoStatefulSetsOneShort|TestMachineMoves' ./test/e2e -soak
	go test -count=1 -timeout 60m -parallel 8 -v -run 'TestDeletedByForce|TestNodesLost|TestNodesDeleted|TestAutomaticPools' ./test/e2e -soak
	go test -race -count=1 -timeout 60m -v -run TestRandomKills ./test/cni -kills 10m

.PHONY: e2e
e2e: parts test-e2e ## Run the end-to-end scenarios alone

.PHONY: bench
bench: packages parts ## Measure against host-local in one run; BASELINE=COMMIT: and against a commit
ifeq ($(BASELINE),)
	@go run ./test/bench
else
	@rm -rf $(OUT)/bench && mkdir -p $(OUT)/bench/$(BASELINE)
	@git archive $(BASELINE) | tar -x -C $(OUT)/bench/$(BASELINE)
	@$(MAKE) --no-print-directory -C $(OUT)/bench/$(BASELINE) build COMMIT=$(BASELINE)
	@$(MAKE) --no-print-directory build
	@go run ./test/bench -bin $(OUT)/bench/$(BASELINE)/$(OUT)/bin/$(ARCH) -bin $(OUT)/bin/$(ARCH)
endif

.PHONY: demo
demo: packages parts ## Watch pods get addresses on a Kubernetes of two nodes
	@go run ./test/demo

.PHONY: lab-up
lab-up: packages ## Start a Kubernetes of two nodes; NAME=lab NODES=2
	@go run ./test/lab/cmd/lab up --name $(or $(NAME),lab) --nodes $(or $(NODES),2)

.PHONY: lab-down
lab-down: ## Take it down
	@go run ./test/lab/cmd/lab down --name $(or $(NAME),lab)

.PHONY: check
check: generate lint test ## generate + lint + test, and nothing may have changed
	go mod tidy -diff
	git diff --exit-code
