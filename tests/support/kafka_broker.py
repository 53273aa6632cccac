"""A real Apache Kafka for the tests: KRaft brokers, each in a JVM of its own, on free ports of the loopback.

By hand: `python tests/support/kafka_broker.py` prints the address and runs until Ctrl+C. Mostly one broker is enough;
`cluster` starts two, for topics whose leader moves.

The jars come from Maven once (tests/kafka/pom.xml), into a cache outside the repository; later starts need Java
alone. A broker listens in plain text, by SASL (PLAIN and SCRAM) and by TLS, and its data goes when it is closed.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from xml.etree import ElementTree

POM = Path(__file__).resolve().parents[1] / "kafka" / "pom.xml"
USER, PASSWORD = "reader", "reader-secret"
STORE_PASSWORD = "test-store"
START_TIMEOUT_S = 60.0
CLUSTER = "bXFsLXRlc3QtY2x1c3Rlcg"  # any base64 text of 16 bytes


class BrokerUnavailable(Exception):
    """No broker is to be had here; the message says why, and how to get one."""


class Broker:
    """One broker and its data. `stop` and `start` keep ports and data: the broker is away, and comes back.

    Where `setpriv` exists the JVM dies with the thread that started it, so that a killed test run leaves nothing.

    `linked`: the port at which those who come by `link_address` are told to come again: somebody listens there who
    passes on what he hears. `first`: the one whose cluster this one joins; else it makes its own. `of`: how many
    brokers the cluster is to have.
    """

    def __init__(self, linked: int | None = None, first: Broker | None = None, of: int = 1) -> None:
        self._jars = jars()
        self._store = key_store(self._jars)
        self._home = Path(tempfile.mkdtemp(prefix="mql-kafka-"))
        self._controller, plain, sasl, tls, link = free_ports(5)
        self.number = 1 if first is None else first.number + 1
        self.address = f"127.0.0.1:{plain}"
        self.sasl_address = f"127.0.0.1:{sasl}"
        self.tls_address = f"127.0.0.1:{tls}"
        self.link_address = f"127.0.0.1:{link}"
        self.ca_file = str(self._store.with_suffix(".pem"))
        self._process: subprocess.Popen[bytes] | None = None
        listeners = {"PLAINTEXT": plain, "SASL": sasl, "TLS": tls, "LINK": link}
        advertised = listeners | ({} if linked is None else {"LINK": linked})
        self._write_settings(listeners, advertised, self._controller if first is None else first._controller, of)
        self._format()

    def __enter__(self) -> Broker:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Returns when the broker answers."""
        self.launch()
        self.wait_until_it_answers()

    def launch(self) -> None:
        """Returns at once."""
        assert self._process is None, "it runs already"
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [*with_its_parent(), *java(self._jars, "-Xmx512m"), "kafka.Kafka", str(self._settings)],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                start_new_session=True,  # Ctrl+C is for the one who started us
            )

    def wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(self.address):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the broker did not start:\n{self._log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)

    @property
    def _log(self) -> Path:
        return self._home / "log.txt"

    def stop(self) -> None:
        """An orderly end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """An end without a word, as by a power cut."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Connections stay, answers don't come, until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _write_settings(self, listeners: dict[str, int], advertised: dict[str, int], controller: int, of: int) -> None:
        login = "org.apache.kafka.common.security"
        leads = self.number == 1
        settings = {
            "process.roles": "broker,controller" if leads else "broker",
            "node.id": str(self.number),
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": written(listeners | ({"CONTROLLER": controller} if leads else {})),
            "advertised.listeners": written(advertised),
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,LINK:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl.plain.sasl.jaas.config": (
                f'{login}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            ),
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": str(self._store),
            "ssl.keystore.password": STORE_PASSWORD,
            "log.dirs": str(self._home / "data"),
            # Tests are in a hurry: who has gone is missed soon, and who comes back leads again soon.
            "leader.imbalance.check.interval.seconds": "1",
            "replica.lag.time.max.ms": "2000",
            "offsets.topic.replication.factor": str(of),
            "offsets.topic.num.partitions": "2",
            "transaction.state.log.replication.factor": str(of),
            "transaction.state.log.min.isr": "1",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "200",
            "transaction.state.log.num.partitions": "2",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "log.initial.task.delay.ms": "500",
            "log.retention.check.interval.ms": "500",
            "log.retention.ms": "-1",  # messages with times of long ago stay, where a topic does not say otherwise
            "log.cleaner.backoff.ms": "200",
            "log.cleaner.dedupe.buffer.size": str(8 * 2**20),
            "log.segment.delete.delay.ms": "100",
            "controlled.shutdown.enable": "false",
            "broker.session.timeout.ms": "1000",  # until it has passed, one that was killed may not come back
            "broker.heartbeat.interval.ms": "200",
            "num.network.threads": "2",
            "num.io.threads": "2",
            "background.threads": "2",
        }
        self._settings = self._home / "server.properties"
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def _format(self) -> None:
        """The storage of a new cluster, with the SCRAM user in it."""
        users = [
            part
            for mechanism in (("SCRAM-SHA-256", "SCRAM-SHA-512") if self.number == 1 else ())
            for part in ("--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]")
        ]
        run_java(self._jars, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(self._settings), *users)


def written(listeners: dict[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())


@contextmanager
def cluster(linked: int, also_linked: int) -> Iterator[tuple[Broker, Broker]]:
    """Two brokers; the first is the controller, too. They are reached by others at these ports."""
    with ExitStack() as own:
        first = Broker(linked, of=2)
        own.callback(first.close)
        second = Broker(also_linked, first, of=2)
        own.callback(second.close)
        for broker in (first, second):
            broker.launch()
        for broker in (first, second):
            broker.wait_until_it_answers()
        yield first, second


def jars() -> Path:
    """The folder with the broker's jars; fetched into the cache by Maven the first time."""
    if shutil.which("java") is None:
        raise BrokerUnavailable(
            "Kafka tests need Java 17 or newer and there is no `java`: install a JRE, or name a running broker in "
            "MQL_TEST_KAFKA=host:port"
        )
    done = cache() / "jars"
    if done.is_dir():
        return done
    if shutil.which("mvn") is None:
        raise BrokerUnavailable(
            f"Kafka's jars are not in {done} and there is no `mvn` to fetch them: install Maven, or name a running "
            "broker in MQL_TEST_KAFKA=host:port"
        )
    done.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=done.parent))
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
    fetch = subprocess.run(["mvn", "-q", "-B", "-f", str(POM), *goal], capture_output=True, text=True)
    if fetch.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise BrokerUnavailable(
            "Maven could not fetch Kafka's jars (is a Maven repository within reach?); MQL_TEST_KAFKA=host:port "
            f"names a running broker instead. It said: {(fetch.stdout + fetch.stderr).strip()[-500:]}"
        )
    return put_in_place(partial, done)


def key_store(jars: Path) -> Path:
    """A key for 127.0.0.1 that signs itself, kept beside the jars, and its certificate as `.pem`."""
    done = cache() / "keys"
    if not done.is_dir():
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=done.parent))
        store = ["-keystore", str(partial / "broker.p12"), "-storepass", STORE_PASSWORD, "-alias", "broker"]
        name = ["-dname", "CN=127.0.0.1", "-ext", "SAN=IP:127.0.0.1,DNS:localhost"]
        kind = ["-storetype", "PKCS12", "-keyalg", "EC", "-groupname", "secp256r1", "-validity", "36500"]
        main = "sun.security.tools.keytool.Main"
        run_java(jars, main, "-genkeypair", *store, *name, *kind)
        run_java(jars, main, "-exportcert", "-rfc", *store, "-file", str(partial / "broker.pem"))
        put_in_place(partial, done)
    return done / "broker.p12"


def cache() -> Path:
    """Of this version of Kafka; MQL_TEST_CACHE puts it elsewhere than ~/.cache."""
    root = os.environ.get("MQL_TEST_CACHE") or Path.home() / ".cache" / "mql-tests"
    return Path(root) / f"kafka-{version()}"


@functools.cache
def version() -> str:
    found = ElementTree.parse(POM).find(".//{*}kafka.version")
    assert found is not None
    assert found.text
    return found.text


def put_in_place(partial: Path, done: Path) -> Path:
    """Complete or not there: a half-filled folder never bears the final name. Two that race both win."""
    try:
        partial.rename(done)
    except OSError:
        if not done.is_dir():
            raise
        shutil.rmtree(partial, ignore_errors=True)
    return done


def java(jars: Path, *options: str) -> list[str]:
    quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    return ["java", *options, *quick, "-cp", f"{jars}/*"]


def run_java(jars: Path, *command: str) -> None:
    done = subprocess.run([*java(jars), *command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def with_its_parent() -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def free_ports(count: int) -> list[int]:
    """Below the range that outgoing connections are given, so that a stopped broker finds its port free again."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            one = socket.socket()
            try:
                one.bind(("127.0.0.1", random.randrange(10_000, 30_000)))
            except OSError:
                one.close()
                continue
            held.append(one)
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def answers(address: str) -> bool:
    """Asks which versions the broker speaks (ApiVersions 0), the first thing that any client asks."""
    host, port = address.rsplit(":", 1)
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection((host, int(port)), 1) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(4)) == 4
    except OSError:
        return False


if __name__ == "__main__":
    with Broker() as broker:
        print(f"{broker.address} (SASL {broker.sasl_address}, TLS {broker.tls_address})", flush=True)
        stopping = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
        signal.sigwait(stopping)
