"""One frozen `Settings`: from the environment, and where that is silent from a running stack."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ArgumentError

from jobs import stackfile
from storage import database
from storage.objects import ObjectStore

DEFAULT_DATA = Path(".presswork")

TRACKERS = ("wandb", "trackio", "mlflow")
"""Where numbers of trainings may go beside our own; each needs the extra of that name."""


class NotConfiguredError(Exception):
    """No services are known: none in the environment, and no local stack is running."""

    def __init__(self, missing: list[str], data: Path) -> None:
        super().__init__(
            f"{', '.join(missing)} not set, and no local stack is running on {data}: "
            "start one with `presswork up`, or set the variables"
        )


class Settings(BaseSettings):
    """Everything that is configured, by ``PRESSWORK_`` variables of the same names."""

    model_config = SettingsConfigDict(
        env_prefix="PRESSWORK_",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    # What holds a secret stays out of repr(), which ends up in logs.
    database_url: Annotated[str, Field(pattern=r"^postgresql(\+psycopg)?://", repr=False)]
    broker_url: Annotated[str, Field(pattern=r"^(rediss?|redis\+socket|sentinel)://", repr=False)]
    s3_bucket: str
    s3_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")] | None = None
    s3_access_key_id: str | None = None
    """Set by the local stack; left open, boto3's own chain finds the AWS variables or a role."""
    s3_secret_access_key: Annotated[str | None, Field(repr=False)] = None

    tenant: str = "default"
    """The tenant on whose behalf the command acts."""
    cache_dir: Annotated[Path, Field(default_factory=lambda: Path.home() / ".cache" / "presswork")]
    """Where workers keep model files that they have built or fetched, checked before each load."""
    pool: Annotated[str, Field(pattern=r"^\s*[^,\s][^,]*(,\s*[^,\s][^,]*)*$")] = "default"
    """Whose work a worker does: a pool, or several with commas between them."""
    lease_s: Annotated[float, Field(gt=0)] = 30
    """A worker that is silent for this long loses its batch."""
    idle_look_s: Annotated[float, Field(gt=0)] = 5
    """How often an idle worker looks at SQL without having been woken."""
    slice_s: Annotated[float, Field(ge=0)] = 30
    """How long a worker stays on one batch key while others wait."""
    training_slice_s: Annotated[float, Field(ge=0)] = 600
    """How long a training goes on while others wait; it ends its turn with a checkpoint."""
    # What a training may have where its tenant has no caps of its own.
    train_max_steps: Annotated[int, Field(ge=0)] = 200_000
    """Twice what the longest preset asks for."""
    train_max_hours: Annotated[float, Field(ge=0)] = 48
    """In sum over its attempts."""
    train_max_pictures: Annotated[int, Field(ge=0)] = 10_000
    """As many as a dataset can have: workers hold them all in memory."""
    sweep_s: Annotated[float, Field(gt=0)] = 2
    batch_size: Annotated[int, Field(ge=1, le=256)] = 64
    """The most jobs of a claim, and of a call; how many are best is measured."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """In which precision models compute; auto: bfloat16 on GPUs, float32 on CPUs."""
    model_memory_gb: Annotated[float, Field(gt=0)] | None = None
    """How much memory the models that a worker keeps loaded may take; see `workers.resident`."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether workers compile models; auto: on GPUs."""
    signing_key: Annotated[str | None, Field(min_length=16, repr=False)] = None
    """Signs compiled code in the bucket. Without one none is kept there, nor taken from there."""
    link_s: Annotated[int, Field(ge=1, le=7 * 86400)] = 600
    """How long a presigned link to an artifact is good for."""
    trackers: str = ""
    """To which of `TRACKERS` the numbers of trainings go as well, with commas between them."""

    @field_validator("database_url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        try:
            make_url(url)
        except (ArgumentError, ValueError):  # whose texts may quote the password
            raise ValueError("is no URL of the form postgresql://USER:PASSWORD@HOST/NAME") from None
        return url

    @field_validator("trackers")
    @classmethod
    def _check_trackers(cls, names: str) -> str:
        if unknown := sorted(set(_listed(names)) - set(TRACKERS)):
            raise ValueError(f"{', '.join(unknown)}: unknown; there are {', '.join(TRACKERS)}")
        return names

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools of `pool`, each once."""
        return _listed(self.pool)

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """The names of `trackers`, each once."""
        return _listed(self.trackers)

    def compiles_on(self, device: str) -> bool:
        """Whether a worker on a device of this type, such as ``cpu``, compiles models."""
        return self.compile == "on" or (self.compile == "auto" and device != "cpu")

    def engine(
        self,
        application: str,
        *,
        pool_size: int = 5,
        keep_plans: bool = False,
        idle_s: int | None = None,
    ) -> Engine:
        """A new engine for the database; see `storage.database.connect`."""
        url = self.database_url
        if url.startswith("postgresql://"):
            url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        return database.connect(
            url,
            application=application,
            pool_size=pool_size,
            keep_plans=keep_plans,
            idle_s=idle_s,
        )

    def objects(self) -> ObjectStore:
        """The bucket."""
        return ObjectStore(
            self.s3_endpoint,
            self.s3_bucket,
            access_key_id=self.s3_access_key_id,
            secret_access_key=self.s3_secret_access_key,
        )


def _listed(names: str) -> tuple[str, ...]:
    """The names between commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


SERVICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "postgres": ("PRESSWORK_DATABASE_URL",),
        "valkey": ("PRESSWORK_BROKER_URL",),
        "s3": (
            "PRESSWORK_S3_BUCKET",
            "PRESSWORK_S3_ENDPOINT",
            "PRESSWORK_S3_ACCESS_KEY_ID",
            "PRESSWORK_S3_SECRET_ACCESS_KEY",
        ),
    },
)
"""The variables of each service, the one that must be there first."""

SIGNING_KEY = "PRESSWORK_SIGNING_KEY"


def load(data: Path | None = None) -> Settings:
    """The settings of this process.

    A service that the environment names is taken from there as a whole, any other from the local
    stack.

    Raises:
        NotConfiguredError: what is missing is named.
        pydantic.ValidationError: a variable has a value that cannot be used.
    """
    data = data or data_dir()
    stack = stackfile.read(data)
    of_stack = stack.environment if stack else {}
    values: dict[str, str] = {}
    missing = []
    external = external_services()
    for name, variables in SERVICES.items():
        if name in external:
            found: Mapping[str, str] = os.environ
        else:
            found = of_stack
        values.update({key: found[key] for key in variables if found.get(key)})
        if variables[0] not in values:
            missing.append(variables[0])
    if missing:
        raise NotConfiguredError(missing, data)
    # It belongs to the bucket, whose contents it signs.
    if "s3" not in external and not os.environ.get(SIGNING_KEY) and SIGNING_KEY in of_stack:
        values[SIGNING_KEY] = of_stack[SIGNING_KEY]
    return from_environment(values)


def from_environment(environment: Mapping[str, str]) -> Settings:
    """The settings in ``environment``, and what it leaves open from the process's own."""
    fields: dict[str, Any] = {
        name.removeprefix("PRESSWORK_").lower(): value for name, value in environment.items()
    }
    return Settings(**fields)


def variable(field: str) -> str:
    """The environment variable by which a field of `Settings` is set."""
    return f"PRESSWORK_{field.upper()}"


def external_services() -> frozenset[str]:
    """The services that the environment names: ``postgres``, ``valkey``, ``s3``."""
    return frozenset(
        name
        for name, variables in SERVICES.items()
        if any(os.environ.get(variable) for variable in variables)
    )


def data_dir() -> Path:
    """Where the local stack keeps its state."""
    return Path(os.environ.get("PRESSWORK_DATA", DEFAULT_DATA))
