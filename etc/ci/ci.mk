# Every step of .github/workflows, to be run by hand; docs/ci.md. Included by the Makefile.

TOOLS := $(VENV)/.tools
TOOL := $(VENV)/tools/bin
# What goes to the security tab, and what is kept of a run.
REPORTS := build/reports
COMMIT = $(shell git rev-parse HEAD)

# The images.
IMAGES ?= training annotation-queue
BUILD_TARGET ?= production
TAG ?= $(COMMIT)
export IMAGES BUILD_TARGET TAG REPORTS

.PHONY: validate audit semgrep sbom coverage images scan push test-images release-notes release deploy deploy-mail

validate: $(DEV) $(TOOLS) ## look at all that a deployment relies on; BUILD=1 builds the images, too
	@PATH="$(abspath $(TOOL)):$$PATH" PYTHON=$(BIN)/python BUILD=$(BUILD) bash etc/ci/validate.sh

audit: $(TOOLS) ## ask for known vulnerabilities of every lock, the annotation queue's apart
	@PATH="$(abspath $(TOOL)):$$PATH" bash etc/ci/audit.sh

semgrep: $(TOOLS) ## look for dangerous code by Semgrep's rules for Python
	@mkdir -p $(REPORTS)
	PATH="$(abspath $(TOOL)):$$PATH" semgrep scan --config p/python --error --metrics off \
	  --sarif-output $(REPORTS)/semgrep.sarif azaion supervisor workers etc

sbom: $(TOOLS) ## list what is in a release (CycloneDX), into build/reports
	@mkdir -p $(REPORTS)
	cat requirements/train.lock requirements/torch.txt | $(TOOL)/cyclonedx-py requirements --pyproject pyproject.toml \
	  --output-reproducible --output-file $(REPORTS)/training.cdx.json -
	$(TOOL)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	  --output-file $(REPORTS)/annotation-queue.cdx.json requirements/annotation-queue.lock

coverage: ## write what `make test` has counted as a page, into build/reports
	$(BIN)/python -m coverage html --quiet --directory $(REPORTS)/coverage
	$(BIN)/python -m coverage xml --quiet -o $(REPORTS)/coverage.xml

images: ## build the images: IMAGES="training annotation-queue" BUILD_TARGET=production TAG=commit DOCKER_REGISTRY=
	@bash etc/containers/images.sh build

scan: ## look for known vulnerabilities in the images (Trivy)
	@bash etc/containers/images.sh scan

push: ## put the images into DOCKER_REGISTRY
	@bash etc/containers/images.sh push

test-images: ## start a broker and the annotation queue's image, and send annotations through (docker compose)
	@export ANNOTATION_QUEUE_IMAGE="$(if $(DOCKER_REGISTRY),$(DOCKER_REGISTRY)/)azaion/annotation-queue:$(TAG)"; code=0; \
	  docker compose -f docker-compose.test.yml up --abort-on-container-exit --exit-code-from check || code=$$?; \
	  docker compose -f docker-compose.test.yml down --volumes; exit $$code

release-notes: ## print what CHANGELOG.md says of VERSION (default: what is not released yet)
	@bash etc/ci/release_notes.sh "$(VERSION)"

release: ## make the release VERSION of this repository on GitHub, with its notes and build/reports (gh)
	bash etc/ci/release_notes.sh "$(VERSION)" > $(REPORTS)/notes.md
	gh release create "$(VERSION)" --verify-tag --title "$(VERSION)" --notes-file $(REPORTS)/notes.md $(REPORTS)/*.cdx.json

deploy: ## deploy to DEPLOY_HOST by ssh: RELEASE=commit, WAY=units or containers, ROLLBACK=1 goes back instead
	@RELEASE="$(or $(RELEASE),$(COMMIT))" WAY="$(or $(WAY),units)" ROLLBACK="$(ROLLBACK)" bash etc/ci/deploy.sh

deploy-mail: ## tell by mail (SMTP_*) that a deploy has failed
	@bash etc/ci/mail.sh

$(TOOLS): requirements/tools.lock | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/tools
	$(TOOL)/python -m pip --quiet --disable-pip-version-check install --require-hashes --no-deps -r requirements/tools.lock
	@touch $@
