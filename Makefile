# `make` lists what there is to do. Each target ends with the exit status of what it ran.

GO          ?= go
PORTS       := amd64 arm64 armv7 armv6 riscv64 386
PURE        := ./facts ./attest/cose ./reference ./appraise ./attest ./agent/spool
BUDGET      ?= arm64=8500000 armv7=8000000
# factsd is built without inlining, which makes it a tenth smaller, but for what
# computes and schedules: without it a signature on 32 bits takes four times as long.
DENSE       := -gcflags=all=-l $(patsubst %,-gcflags=%=,$(addprefix crypto/internal/fips140/,nistec/... bigmod aes/... sha256 sha512 subtle) encoding/binary internal/... math/bits runtime/...)
FUZZTIME    ?= 10s
FUZZDIR     ?= .
DOCS        ?= docs
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
LDFLAGS     := -s -w

# Pieces of a port's name: armv7 is GOARCH=arm GOARM=7.
goarch = $(if $(filter armv%,$1),arm,$1)
goarm  = $(patsubst armv%,%,$(filter armv%,$1))

.NOTPARALLEL:
.PHONY: help build check format vet staticcheck vulnerabilities docs-in-step test test-quick test-faults test-tpm test-386 cross size demo demo-label demo-clean fuzz bench bench-facts bench-alarms bench-failsafe bench-events bench-pressure bench-network bench-talk bench-label bench-attest docs deps clean dist deb repro vm test-vm-quick test-vm test-vm-all deps-vm

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

build: ## Build the commands into bin/, static and stripped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" $(DENSE) -o bin/ ./cmd/factsd
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/factstalk ./cmd/factsctl ./cmd/factsverifier

check: format vet staticcheck vulnerabilities docs-in-step test-quick cross ## Everything quick: format, vet, staticcheck, known vulnerabilities, documents in step, quick tests, cross builds

format: ## Fail on files that gofmt would change
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "run gofmt -w on:" $$unformatted; exit 1; }

vet: ## Run go vet, for 64 and for 32 bits
	$(GO) vet ./...
	GOARCH=arm CGO_ENABLED=0 $(GO) vet ./...

staticcheck: ## Run staticcheck
	$(GO) run $(STATICCHECK) ./...

vulnerabilities: ## Look for known vulnerabilities in code that is really called; says so where the database is out of reach
	@if found=$$($(GO) run $(GOVULNCHECK) ./... 2>&1); then echo "$$found"; else \
	  case "$$found" in \
	  *"dial tcp"*|*"no such host"*) echo "govulncheck: NOT RUN, its database is out of reach from here";; \
	  *) echo "$$found"; exit 1;; \
	  esac; fi

docs-in-step: ## Fail if a generated document differs from what the code says
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && \
	$(MAKE) --no-print-directory -s docs DOCS="$$new" && \
	diff -u docs/facts.md "$$new/facts.md" && diff -ru -x 'facts[dt]*.8' docs/man "$$new/man" || \
	{ echo "run make docs and commit what it changes"; exit 1; }

test: size test-386 ## Everything: sizes, 32 bits, and all tests with the race detector against real parts (make deps gets them)
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 30m ./...

test-quick: ## All tests but the system tests in test/, without the race detector
	$(GO) test $$($(GO) list ./... | grep -v /test/) ./test/house

test-faults: ## Let every system call of the enforcer fail, and kill it at each, and write docs/faults.md (needs root, cgroup v2, strace; WAYS=quarantine,sysfs/pause for a part)
	$(GO) test -count=1 -timeout 90m -parallel 4 -run 'TestFaults$$' ./agent/failsafe -v -faults $(CURDIR)/docs/faults.md -ways '$(WAYS)'

test-tpm: ## All that is said of the TPM, against real swtpm: keys, quotes, power cuts, kills, leftovers
	@mkdir -p bin; $(GO) test -race -count=1 -timeout 60m -v ./attest/tpm -args -every-kind >bin/test-tpm.log 2>&1; status=$$?; \
	grep -v -e 'Data client disconnected' -e '^=== ' bin/test-tpm.log; exit $$status
	$(GO) test -race -count=1 -v ./test/interop

test-386: ## The pure packages on 32 bits (needs an x86 machine)
	@case $$($(GO) env GOHOSTARCH) in \
	amd64|386) set -x; GOARCH=386 CGO_ENABLED=0 $(GO) test $(PURE);; \
	*) echo "test-386: NOT RUN, this machine runs no x86 programs";; \
	esac

cross: $(PORTS:%=cross-%) ## Build the commands for each port into bin/PORT/

cross-%:
	@echo "cross $*"
	@export CGO_ENABLED=0 GOOS=linux GOARCH=$(call goarch,$*) GOARM=$(call goarm,$*) && \
	$(GO) build -trimpath -ldflags "$(LDFLAGS)" $(DENSE) -o bin/$*/ ./cmd/factsd && \
	$(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/$*/ ./cmd/factstalk ./cmd/factsctl ./cmd/factsverifier

size: ## Print the sizes of factsd and factstalk for each port; fail above the budget of factsd and name the heaviest packages
	@GO="$(GO)" BUDGET="$(BUDGET)" FLAGS="$(DENSE)" test/size.sh $(PORTS)

demo: ## Show the whole way on this machine; ONCE=1 ends by itself
	@ONCE=$(ONCE) $(GO) run ./test/demo

demo-label: ## Show labels from text to inspection, with the paper's devices as examples; OUT=DIR keeps what it makes
	@OUT=$(abspath $(OUT)) $(GO) run ./test/demolabel

vm: ## Boot an ARM64 machine with measured boot, TPM and our units (VARIANT=...; as root, packages by make deps-vm)
	@$(GO) run ./test/vm

test-vm-quick: ## Boot it with EDK2 and systemd only: enrolment, crossing, reset while paused, resume
	MIOTFACTS_VM=quick $(GO) test -count=1 -timeout 10m -v -run TestMachine ./test/vm

test-vm: ## Boot all its variants (VARIANTS="edk2 uboot ..." for some) and print a table
	MIOTFACTS_VM=most $(GO) test -count=1 -timeout 30m -v -run TestMachine ./test/vm

test-vm-all: ## The same, and all trials with 20 power cuts each (VARIANTS=edk2 TRIALS="cuts|changed" CUTS=5 for some): hours
	MIOTFACTS_VM=all $(GO) test -count=1 -timeout 6h -v -run TestMachine ./test/vm

demo-clean: ## Remove what a demo left behind that was killed
	@test/demo-clean.sh

# Without the limit Go tries for a minute to make each new input smaller, and does
# nothing else: FuzzUKI ran 9 inputs a minute, and runs 10,000 a second.
fuzz: ## Fuzz each target below FUZZDIR (all) for FUZZTIME (10s)
	@set -e; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' $(FUZZDIR) | xargs -n1 dirname | sort -u); do \
	  list=$$($(GO) test -list '^Fuzz' $$dir); \
	  for f in $$(echo "$$list" | grep '^Fuzz'); do \
	    echo "$$dir $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$dir; \
	  done; \
	done

bench: ## Run all benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-facts: ## Measure a fast round against the least that it can cost, in a crowd, against other agents that are installed; then the device's processes
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" $(DENSE) -o bin/ ./cmd/factsd
	@$(GO) build -o bin/benchfacts ./test/benchfacts && bin/benchfacts bin/factsd

bench-alarms: ## Record this machine, and compare predicted false alarms with those of fresh runs; then how soon anomalies are seen (half an hour; BENCHFLAGS="-runs 10" for less, "-services" for a service in a container only)
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/factsctl
	@$(GO) build -o bin/benchalarms ./test/benchalarms && bin/benchalarms $(BENCHFLAGS) $(CURDIR)/bin/factsctl

bench-failsafe: ## Measure 200 pauses from a crossing to frozen, idle and under load (over an hour, as root, with cgroup v2; BENCHFLAGS="-n 50 -loads idle,cpu -facts event" for less)
	@$(GO) build -o bin/benchfailsafe ./test/benchfailsafe && bin/benchfailsafe $(BENCHFLAGS)

bench-events: ## Measure from the cause of an event to its comparison, 200 of each kind (as root, in namespaces of its own)
	@BENCH_EVENTS=1 $(GO) test -count=1 -run '^$$' -bench '^BenchmarkEvents$$' -benchtime 1x -exec 'unshare -n -m' ./test/benchevents

bench-pressure: ## Measure from the begin of a stall until the kernel tells, and from there to the comparison, 200 times with the kernel's short window and 200 with the long (20 minutes, as root; BENCH_PRESSURE_N=20 for less)
	@CGO_ENABLED=0 BENCH_EVENTS=1 $(GO) test -count=1 -timeout 60m -run '^$$' -bench Pressure -benchtime 1x ./test/benchevents

bench-network: ## Measure from a link's coming up to the broker's acknowledgement of the first report, 20 times (as root, in network namespaces of its own)
	@$(GO) test -run '^$$' -bench '^BenchmarkFirstReport$$' -benchtime 1x ./agent/mqtt

bench-talk: ## Measure CPU time of 1,000 connections, from memory (factsctl talk) and live (factstalk, as root), packets a second, and what is lost
	@$(GO) test -run '^$$' -bench '^BenchmarkConnections$$' ./talk
	@$(GO) test -run '^$$' -bench '^Benchmark(Live|Flood|Idle)$$' -benchtime 3x ./cmd/factstalk

bench-label: ## Measure labels: bytes, version of the QR code, signing and scanning, here and in the page in Chromium
	$(GO) test -run '^$$' -bench '^BenchmarkLabel$$' -benchtime 20x ./label

bench-attest: ## Measure what an attestation costs: TPM, bytes, verifier, each beside its floor and goal
	@$(GO) test -run '^$$' -bench '^BenchmarkAttest$$' -benchtime 1x ./test/benchattest | grep -v -e Benchmark -e '^goos' -e '^goarch' -e '^pkg' -e '^cpu' -e '^ok' -e PASS

docs: ## Regenerate docs/facts.md and the manual pages
	@mkdir -p $(DOCS)/man
	$(GO) run ./cmd/factsctl facts doc > $(DOCS)/facts.md.new && mv $(DOCS)/facts.md.new $(DOCS)/facts.md || { rm -f $(DOCS)/facts.md.new; exit 1; }
	$(GO) run ./cmd/factsctl man $(DOCS)/man
	$(GO) run ./cmd/factsverifier man $(DOCS)/man

deps: ## Install the tools that the tests use (Debian, as root); else say what to install
	@test/deps.sh

deps-vm: ## Install what the virtual machine is made with (Debian, as root); else say what to install
	@test/vm/deps.sh

dist: ## Make archives, Debian packages, bills of materials and SHA256SUMS in bin/dist, for all ports (DISTFLAGS="-ports arm64" for one)
	$(GO) run ./test/packaging/dist -out bin/dist $(DISTFLAGS)

deb: ## Make the Debian packages for amd64, arm64 and armhf in bin/deb
	$(GO) run ./test/packaging/dist -out bin/deb -kinds deb $(DISTFLAGS)

repro: ## Make all of dist twice, in two folders with a build cache each, and compare (slow)
	@test/packaging/repro.sh

clean: ## Remove bin/
	rm -rf bin
