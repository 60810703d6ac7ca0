"""What `deploy/` starts: its commands are carried out here, without containers."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from tests.distributed.locusts import ROOT, Locusts, free_port, needs_locust

yaml = pytest.importorskip("yaml")

if TYPE_CHECKING:
    from kabench.server import EmbeddedServer

DEPLOY = ROOT / "deploy"
_VARIABLE = re.compile(r"\$\{WORKERS:-(\d+)\}")


def of_compose() -> tuple[list[str], list[str], list[str], int]:
    """The commands of target, master and worker, and how many workers there are."""
    services = yaml.safe_load(_VARIABLE.sub(r"\1", (DEPLOY / "compose.yaml").read_text()))["services"]
    replicas = int(services["worker"]["deploy"]["replicas"])
    return *(services[name]["command"] for name in ("target", "master", "worker")), replicas


def of_kubernetes() -> tuple[list[str], list[str], list[str], int]:
    """The same of the manifest."""
    documents: list[Any] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["containers"][0]["args"]
        for each in documents
        if each["kind"] in ("Job", "Deployment")
    }
    (workers,) = [d["spec"] for d in documents if d["metadata"]["name"] == "kabench-worker"]
    assert workers["parallelism"] == workers["completions"]
    return pods["kabench-target"], pods["kabench-master"], pods["kabench-worker"], workers["parallelism"]


@needs_locust
@pytest.mark.parametrize("commands", [of_compose, of_kubernetes], ids=["compose", "kubernetes"])
def test_its_commands_make_a_run(commands: Any, locusts: Locusts, echo_server: EmbeddedServer) -> None:
    target, master, worker, workers = commands()
    port = free_port()
    here = {
        "http://target:8080/": echo_server.url,
        "http://kabench-target:8080/": echo_server.url,
        "0.0.0.0:5557": f"127.0.0.1:{port}",
        "master:5557": f"127.0.0.1:{port}",
        "kabench-master:5557": f"127.0.0.1:{port}",
        "30s": "1s",
    }
    assert master[master.index("--expect-workers") + 1] == str(workers)
    running = locusts.kabench(*(here.get(word, word) for word in master), "--json", "record.json")
    joined = [locusts.kabench(*(here.get(word, word) for word in worker)) for _ in range(workers)]
    assert running.end() == 0, running.err
    assert [each.end() for each in joined] == [0] * workers
    assert running.out.count("[kabench:") == 2
    serving = locusts.kabench(*({"0.0.0.0": "127.0.0.1", "8080": "0"}.get(word, word) for word in target))
    serving.wait_for("http://127.0.0.1:")


def test_the_image_installs_an_extra_that_there_is() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    installed = re.search(r"pip install .*'/src\[(\w+)\]'", dockerfile)
    assert installed is not None
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert installed[1] in extras
    assert 'ENTRYPOINT ["kabench"]' in dockerfile
