# Targets for people and for CI. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
OUT   := _output
TOOL  := go tool -modfile=go.tools.mod
STATIC := CGO_ENABLED=0 go build -trimpath -ldflags "-s -w"
VERSION := $(shell sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}/\1/p' charts/spiderpool/Chart.yaml)
ARCH  ?= $(shell go env GOARCH)

# The parts of `make test`, in order. Each prints how long it took.
TESTS := unit cni bench lab e2e

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the programs into _output/bin
	@for program in spiderpool spiderpool-agent spiderpool-controller spiderpoolctl; do \
	  GOOS=linux GOARCH=$(ARCH) $(STATIC) -o $(OUT)/bin/$(ARCH)/$$program ./cmd/$$program || exit 1; done

.PHONY: image
image: build ## Build the images of agent and controller into _output as OCI archives
	@go run ./build/image --name ghcr.io/spidernet-io/spiderpool/spiderpool-agent:$(VERSION) \
	  --out $(OUT)/spiderpool-agent-$(ARCH).tar --arch $(ARCH)=$(OUT)/bin/$(ARCH) spiderpool-agent spiderpool
	@go run ./build/image --name ghcr.io/spidernet-io/spiderpool/spiderpool-controller:$(VERSION) \
	  --out $(OUT)/spiderpool-controller-$(ARCH).tar --arch $(ARCH)=$(OUT)/bin/$(ARCH) spiderpool-controller

.PHONY: generate
generate: ## Generate deep copies and CRDs from api/
	$(TOOL) controller-gen object paths=./api/...
	$(TOOL) controller-gen crd:generateEmbeddedObjectMeta=false paths=./api/... output:crd:dir=charts/spiderpool/files/generated/crds

.PHONY: lint
lint: ## Look for mistakes and bad habits
	$(TOOL) golangci-lint run ./...

.PHONY: packages
packages: # Install the Debian packages that the lab needs, if any is missing
	@missing=$$(sed 's/#.*//' test/lab/packages.txt | grep -oE '[^[:space:]]+' | while read -r p; do \
	  dpkg-query -W -f='$${Status}\n' "$$p" 2>/dev/null | grep -q '^install ok installed' || echo "$$p"; done); \
	[ -z "$$missing" ] || { echo "installing" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }

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
test-unit: # Packages by themselves and against a real API server
	go test -race -count=1 -shuffle=on $$(go list ./... | grep -v /test/) ./test/imports

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
test-e2e: # Real pods on real kubelets
	go test -count=1 -timeout 30m -v ./test/e2e | grep -vE '^=== (RUN|PAUSE|CONT|NAME)'

.PHONY: soak
soak: packages parts ## Run the big sizes of the scenarios, some four hours
	go test -count=1 -timeout 60m -v -run TestManyNodesOneAddress ./internal/agent -soak
	go test -count=1 -timeout 60m -v -run TestModel ./internal/agent -steps 20000
	go test -count=1 -timeout 60m -v -run 'TestSize|TestStatusCost|TestCollectionSize|TestManyAutomaticPools' ./internal/controller -soak
	go test -count=1 -timeout 60m -v -run TestAutoscaler ./test/bench -soak
	go test -count=1 -timeout 60m -v -run 'TestTwoApplicationsRolled|TestRebuild' ./test/e2e -soak
	go test -count=1 -timeout 120m -v -run 'TestEditRace|TestControllerAway' ./test/e2e -soak
	go test -count=1 -timeout 150m -v -run 'TestStatefulSetKeepsAddresses|TestTwoStatefulSetsOneShort|TestMachineMoves' ./test/e2e -soak
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
	@$(MAKE) --no-print-directory -C $(OUT)/bench/$(BASELINE) build
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
