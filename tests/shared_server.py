"""A real shared MLflow server, as cluster.md has it: PostgreSQL, S3, users, roles, a proxy."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
import psycopg
from http_server import free_port, is_up
from proxying import nginx
from source_tree import ROOT

ADMIN = ("admin", "a long password of the admin")
TRAINER = ("trainer", "a long password of a trainer")
READER = ("reader", "a long password of a reader")
STORE = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
"""What only those who reach the object store themselves have in their environment."""

NAME = "mlflow.example.org"
"""What docs/cluster.md calls the server."""
DOCUMENTED = "postgresql+psycopg://mlflow@db.example.org"
"""Where docs/cluster.md has the databases."""


def _folder_of_postgres() -> Path | None:
    found = shutil.which("pg_ctl")
    installed = [Path(found).resolve()] if found else []
    installed += sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return installed[-1].parent if installed else None


POSTGRES = _folder_of_postgres()
ABSENT = "PostgreSQL is not installed"


@contextmanager
def postgres() -> Iterator[int]:
    """The port of a server with the databases `mlflow` and `mlflow_users`, without passwords."""
    assert POSTGRES is not None, ABSENT
    # Not below pytest's folder, which only its owner may enter; and initdb refuses root.
    folder = Path(tempfile.mkdtemp(prefix="fvc-postgres-"))
    as_user: Sequence[str] = ()
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = ("runuser", "-u", "postgres", "--")
    data, port = folder / "data", free_port()

    commands, log = folder.parent / f"{folder.name}.log", folder / "server.log"

    def run(program: str, *words: str) -> None:
        command = [*as_user, str(POSTGRES / program), *words]
        with commands.open("a") as said:
            done = subprocess.run(command, cwd="/", stdout=said, stderr=said, check=False)
        logs = [path.read_text(errors="replace") for path in (commands, log) if path.exists()]
        assert done.returncode == 0, "\n".join([f"{shlex.join(command)} failed:", *logs])

    try:
        run("initdb", "-D", str(data), "-U", "mlflow", "-A", "trust", "-N", "--locale=C.UTF-8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
        run("pg_ctl", "-D", str(data), "-l", str(log), "-o", options, "-w", "start")
        try:
            with psycopg.connect(
                f"host=127.0.0.1 port={port} user=mlflow dbname=postgres", autocommit=True
            ) as admin:
                admin.execute("CREATE DATABASE mlflow")
                admin.execute("CREATE DATABASE mlflow_users")
            yield port
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
        commands.unlink(missing_ok=True)


@contextmanager
def object_store(folder: Path, bucket: str) -> Iterator[str]:
    """The address of an S3 endpoint with a bucket, which is full while `folder`/full exists."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("s3_endpoint.py"))]
    with (folder / "s3.log").open("w") as log:
        server = subprocess.Popen(
            [*command, str(port), str(folder / "full")], stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not is_up(f"{address}/moto-api/"):
            assert server.poll() is None, (folder / "s3.log").read_text()
            assert time.monotonic() < deadline, (folder / "s3.log").read_text()
            time.sleep(0.1)
        client(address).create_bucket(Bucket=bucket)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def client(address: str) -> "boto3.client":
    """Of an S3 endpoint."""
    return boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=STORE["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=STORE["AWS_SECRET_ACCESS_KEY"],
        region_name=STORE["AWS_REGION"],
    )


class SharedServer:
    """`mlflow server`, which may be killed and started again."""

    def __init__(self, folder: Path, database_port: int, s3: str, bucket: str) -> None:
        self.folder, self.bucket, self.s3 = folder, bucket, s3
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        address = f"postgresql+psycopg://mlflow@127.0.0.1:{database_port}"
        users = folder / "users.ini"
        [lines] = re.findall(r"```ini\n(.*?)```", documented(), re.DOTALL)
        users.write_text(lines.replace(DOCUMENTED, address))
        self._environment = {
            **own_environment(),
            **STORE,
            "MLFLOW_S3_ENDPOINT_URL": s3,
            "MLFLOW_AUTH_CONFIG_PATH": str(users),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret of the server",
        }
        [command] = re.findall(r"^mlflow server (.*?)\n```", documented(), re.DOTALL | re.MULTILINE)
        ours = {
            "--port 5000": f"--port {self.port}",
            "--workers 4": "--workers 2",
            # The other tests ask it without a proxy.
            f"--allowed-hosts {NAME}": f"--allowed-hosts {NAME},127.0.0.1:{self.port}",
            DOCUMENTED: address,
            "s3://fvc-artifacts": f"s3://{bucket}",
        }
        for theirs, own in ours.items():
            assert theirs in command, f"docs/cluster.md has no {theirs}"
            command = command.replace(theirs, own)
        words = shlex.split(command.replace("\\\n", " "))
        self._command = [sys.executable, "-m", "mlflow", "server", *words]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def full(self) -> Path:
        """While this file exists, the bucket takes nothing more."""
        return self.folder / "full"

    def signed_requests(self) -> int:
        """How often somebody came to the object store with an address that the server signed."""
        return (self.folder / "s3.log").read_text().count("X-Amz-Signature=")

    def start(self, wait_s: float = 180) -> None:
        """Start it, and wait until it answers."""
        log = self.folder / "server.log"
        with log.open("a") as stream:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environment,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        deadline = time.monotonic() + wait_s
        while not is_up(f"{self.uri}/health"):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """As a machine that loses its power would end it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def environment(self, user: tuple[str, str] = TRAINER) -> dict[str, str]:
        """Of one who uses it: an address, a name and a password, and nothing of the store."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user[0],
            "MLFLOW_TRACKING_PASSWORD": user[1],
        }


def documented() -> str:
    """What docs/cluster.md says of a shared server."""
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    return text.split("## A shared MLflow server")[1]


def own_environment() -> dict[str, str]:
    """This process's, without what others may have set for MLflow, DVC or a store."""
    ours = re.compile("(MLFLOW|FVC|DVC|AWS)_")
    outside = {key: value for key, value in os.environ.items() if not ours.match(key)}
    return {**outside, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@contextmanager
def acting_as(server: SharedServer, user: tuple[str, str]) -> Iterator[None]:
    """Let MLflow in this process speak to the server as one of its users."""
    with setting(server.environment(user)):
        yield


@contextmanager
def setting(environment: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the length of the block."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def give_roles(server: SharedServer) -> None:
    """What docs/cluster.md has the administrator run once."""
    [program] = re.findall(r"```python\n(.*?)```", documented(), re.DOTALL)
    passwords = {"TRAINER_PASSWORD": TRAINER[1], "READER_PASSWORD": READER[1]}
    environment = own_environment() | server.environment(ADMIN) | passwords
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@contextmanager
def shared_server(folder: Path, bucket: str = "fvc-artifacts") -> Iterator[SharedServer]:
    """A server that is up, with its users."""
    with ExitStack() as stack:
        port = stack.enter_context(postgres())
        server = SharedServer(
            folder, port, stack.enter_context(object_store(folder, bucket)), bucket
        )
        stack.callback(server.kill)
        server.start()
        give_roles(server)
        yield server


@contextmanager
def behind_nginx(
    server: SharedServer, folder: Path, changes: Mapping[str, str] | None = None
) -> Iterator[tuple[int, Path]]:
    """The port of an nginx with the lines of docs/cluster.md, with changes; its certificate."""
    [lines] = re.findall(r"```nginx\n(.*?)```", documented(), re.DOTALL)
    folder.mkdir()
    certificate, key, port = folder / "mlflow.pem", folder / "mlflow.key", free_port()
    make = "openssl req -x509 -nodes -newkey rsa:2048 -days 2"
    names = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *names, *files], check=True, capture_output=True)
    ours = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/certs/mlflow.pem": str(certificate),
        "/etc/ssl/private/mlflow.key": str(key),
        "http://127.0.0.1:5000": server.uri,
        **(changes or {}),
    }
    for theirs, own in ours.items():
        assert theirs in lines, f"docs/cluster.md has no {theirs}"
        lines = lines.replace(theirs, own)
    with nginx(folder, lines, lambda: _listens(port)):
        yield port, certificate


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
