"""What both runtimes in Java share: one Maven project, a module each, run from its jars."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bertx.runtimes import Job
from bertx.runtimes.native import Native, Places, Step, Tool


class Maven(Native):
    """A leaf in Java."""

    language = "java"
    toolchain = (
        Tool("mvn", "Maven (apt install maven)"),
        Tool("javac", "a JDK, 17 or newer (apt install openjdk-17-jdk-headless)"),
    )
    tools = (Tool("java", "Java 17 or newer (apt install openjdk-17-jre-headless)"),)
    takes_texts = True
    #: the Maven module, and the class whose main() is the runner
    module: ClassVar[str]
    main: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.sources = ("pom.xml", "protocol", cls.module)

    def steps(self, places: Places) -> Sequence[Step]:
        words = ("mvn", "--batch-mode", "--no-transfer-progress", "--projects", self.module, "--also-make", "package")
        return [Step(words, places.source)]

    def collect(self, places: Places) -> None:
        made = places.source / self.module / "target"
        for jar in (*made.glob("*.jar"), *(made / "dependency").glob("*.jar")):
            shutil.copy2(jar, places.product / jar.name)

    def program(self, product: Path) -> list[str]:
        # DJL unpacks its libraries before their first use, into a folder of our choosing, and asks nobody.
        unpacked = f"-DDJL_CACHE_DIR={self.room / 'djl'}"
        # What the virtual machine writes when it crashes would lie in the current folder otherwise.
        crashes = f"-XX:ErrorFile={self.room / f'{self.name}.crash'}"
        return ["java", "-Dai.djl.offline=true", unpacked, crashes, "-cp", str(product / "*"), self.main]

    def command(self, job: Job) -> list[str]:
        java, *words = super().command(job)
        return [java, f"-Djava.io.tmpdir={job.outputs.parent}", *words]  # Java does not ask TMPDIR
