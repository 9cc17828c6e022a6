"""Where settings come from: each service as a whole from the environment or from the stack."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from jobs import stackfile
from jobs.settings import (
    NotConfiguredError,
    Settings,
    data_dir,
    external_services,
    from_environment,
    load,
    variable,
)
from jobs.stackfile import StackInfo

STACK = {
    "PRESSWORK_DATABASE_URL": "postgresql+psycopg://u:stack@127.0.0.1:1/presswork",
    "PRESSWORK_BROKER_URL": "redis://:stack@127.0.0.1:2/0",
    "PRESSWORK_S3_BUCKET": "stack",
    "PRESSWORK_S3_ENDPOINT": "http://127.0.0.1:3",
    "PRESSWORK_S3_ACCESS_KEY_ID": "stack key",
    "PRESSWORK_S3_SECRET_ACCESS_KEY": "stack secret",
    "PRESSWORK_SIGNING_KEY": "the stack's signing key",
}
AWS_OF_THE_SHELL = {
    "AWS_ACCESS_KEY_ID": "shell key",
    "AWS_SECRET_ACCESS_KEY": "shell secret",
    "AWS_SESSION_TOKEN": "shell token",
    "AWS_DEFAULT_REGION": "shell-1",
}
S3_OF_THE_SHELL = {"PRESSWORK_S3_BUCKET": "shell", **AWS_OF_THE_SHELL}


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A shell that has none of our variables, nor Amazon's."""
    for name in list(os.environ):
        if name.startswith(("PRESSWORK_", "AWS_")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Path]:
    """The data directory of a local stack that is running."""
    info = StackInfo(
        pid=os.getpid(),
        data=tmp_path / "data",
        api_url="http://127.0.0.1:4",
        api_key="pw_x",
        ports={},
        environment=STACK,
    )
    with stackfile.lock(info.data):
        stackfile.write(info)
        yield info.data


def set_all(shell: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Variables of the shell."""
    for name, value in variables.items():
        shell.setenv(name, value)


def bucket(settings: Settings) -> tuple[str, str | None, str | None, str | None]:
    """All that is known of the object store."""
    store = settings.objects()
    return (
        store.bucket,
        store.endpoint,
        store.access_key_id,
        store.secret_access_key,
    )


STACK_BUCKET = ("stack", "http://127.0.0.1:3", "stack key", "stack secret")


def test_everything_from_the_stack(stack: Path) -> None:
    """Nothing is set, and a local stack is running: it is used."""
    settings = load(stack)
    assert settings.database_url == STACK["PRESSWORK_DATABASE_URL"]
    assert settings.broker_url == STACK["PRESSWORK_BROKER_URL"]
    assert bucket(settings) == STACK_BUCKET


def test_the_key_that_signs_goes_with_the_bucket(stack: Path, shell: pytest.MonkeyPatch) -> None:
    """The stack's key signs what lies in the stack's bucket, unless the environment has another."""
    assert load(stack).signing_key == STACK["PRESSWORK_SIGNING_KEY"]
    shell.setenv("PRESSWORK_SIGNING_KEY", "the shell's signing key")
    assert load(stack).signing_key == "the shell's signing key"
    shell.delenv("PRESSWORK_SIGNING_KEY")
    set_all(shell, S3_OF_THE_SHELL)
    assert load(stack).signing_key is None


def test_the_data_directory_can_be_named_by_a_variable(
    stack: Path, shell: pytest.MonkeyPatch
) -> None:
    """PRESSWORK_DATA says where the stack is, for whoever gives no option."""
    shell.setenv("PRESSWORK_DATA", str(stack))
    assert data_dir() == stack
    assert bucket(load()) == STACK_BUCKET


def test_the_shells_aws_variables_do_not_reach_the_stacks_bucket(
    stack: Path, shell: pytest.MonkeyPatch
) -> None:
    """Credentials for something else are not sent to our own store."""
    set_all(shell, AWS_OF_THE_SHELL)
    assert bucket(load(stack)) == STACK_BUCKET
    signature = signed_by(load(stack))
    assert signature["X-Amz-Credential"][0].startswith("stack key/")
    assert "X-Amz-Security-Token" not in signature
    assert external_services() == frozenset()


def signed_by(settings: Settings) -> dict[str, list[str]]:
    """What a presigned link says of the credentials and the region behind it."""
    link = settings.objects().presigned_get("k", filename="f", media_type="x/y", expires_s=60)
    return parse_qs(urlsplit(link).query)


def test_the_shells_aws_variables_belong_to_the_shells_bucket(
    stack: Path, shell: pytest.MonkeyPatch
) -> None:
    """A bucket that the environment names is reached as the environment says, or not at all."""
    set_all(shell, S3_OF_THE_SHELL)
    settings = load(stack)
    assert bucket(settings) == ("shell", None, None, None)
    signature = signed_by(settings)
    assert signature["X-Amz-Credential"][0].startswith("shell key/")
    assert "/shell-1/" in signature["X-Amz-Credential"][0]
    assert signature["X-Amz-Security-Token"] == ["shell token"]
    assert settings.database_url == STACK["PRESSWORK_DATABASE_URL"]
    assert external_services() == {"s3"}


def test_a_bucket_without_keys_leaves_them_to_amazons_own_chain(
    stack: Path, shell: pytest.MonkeyPatch
) -> None:
    """The stack's keys are not mixed into a bucket of the environment."""
    set_all(shell, {"PRESSWORK_S3_BUCKET": "shell"})
    assert bucket(load(stack)) == ("shell", None, None, None)


@pytest.mark.parametrize(
    ("name", "value", "service"),
    [
        ("PRESSWORK_DATABASE_URL", "postgresql://u:shell@h/x", "postgres"),
        ("PRESSWORK_BROKER_URL", "rediss://:shell@h/0", "valkey"),
    ],
)
def test_each_service_is_chosen_by_itself(
    stack: Path, shell: pytest.MonkeyPatch, name: str, value: str, service: str
) -> None:
    """One service may be elsewhere while the others are the stack's."""
    shell.setenv(name, value)
    settings = load(stack)
    expected = {**STACK, name: value}
    assert settings.database_url == expected["PRESSWORK_DATABASE_URL"]
    assert settings.broker_url == expected["PRESSWORK_BROKER_URL"]
    assert bucket(settings) == STACK_BUCKET
    assert external_services() == {service}


def test_an_empty_variable_is_not_set(stack: Path, shell: pytest.MonkeyPatch) -> None:
    """A variable that is there and empty chooses nothing."""
    set_all(shell, {"PRESSWORK_DATABASE_URL": "", "PRESSWORK_S3_BUCKET": ""})
    settings = load(stack)
    assert settings.database_url == STACK["PRESSWORK_DATABASE_URL"]
    assert bucket(settings) == STACK_BUCKET


def test_a_store_without_a_bucket_is_not_completed_from_the_stack(
    stack: Path, shell: pytest.MonkeyPatch
) -> None:
    """Who names an endpoint means another store: its bucket is missing, and that is said."""
    shell.setenv("PRESSWORK_S3_ENDPOINT", "http://elsewhere")
    with pytest.raises(NotConfiguredError, match=r"^PRESSWORK_S3_BUCKET not set"):
        load(stack)


def test_nothing_is_configured(tmp_path: Path) -> None:
    """Without a stack everything that is missing is named, and where it was looked for."""
    with pytest.raises(NotConfiguredError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        "PRESSWORK_DATABASE_URL, PRESSWORK_BROKER_URL, PRESSWORK_S3_BUCKET not set, and no local "
        f"stack is running on {tmp_path}: start one with `presswork up`, or set the variables"
    )


def test_what_is_missing_without_a_stack(tmp_path: Path, shell: pytest.MonkeyPatch) -> None:
    """What the environment has is not asked for again."""
    set_all(shell, {**STACK, "PRESSWORK_BROKER_URL": ""})
    with pytest.raises(NotConfiguredError, match=r"^PRESSWORK_BROKER_URL not set"):
        load(tmp_path)


def test_a_stopped_stack_is_not_used(stack: Path, tmp_path: Path) -> None:
    """What another directory's stack has left is no configuration."""
    assert load(stack)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "stack.json").write_text((stack / "stack.json").read_text())
    (tmp_path / "other" / "lock").touch()
    with pytest.raises(NotConfiguredError):
        load(tmp_path / "other")


def test_other_settings_come_from_the_environment(stack: Path, shell: pytest.MonkeyPatch) -> None:
    """What belongs to no service is read from the shell, beside the stack's services."""
    set_all(
        shell, {"PRESSWORK_TENANT": "acme", "PRESSWORK_LEASE_S": "7.5", "PRESSWORK_POOL": "gpu"}
    )
    settings = load(stack)
    assert (settings.tenant, settings.lease_s, settings.pool) == ("acme", 7.5, "gpu")


@pytest.mark.parametrize(
    ("given", "pools"), [("gpu", ("gpu",)), (" gpu, large models,gpu", ("gpu", "large models"))]
)
def test_pools(stack: Path, shell: pytest.MonkeyPatch, given: str, pools: tuple[str, ...]) -> None:
    """A worker may serve several pools, each named once."""
    set_all(shell, {"PRESSWORK_POOL": given})
    assert load(stack).pools == pools


def test_trackers(stack: Path, shell: pytest.MonkeyPatch) -> None:
    """There are none, unless some are asked for, each named once."""
    assert load(stack).tracker_names == ()
    set_all(shell, {"PRESSWORK_TRACKERS": "mlflow, wandb,mlflow"})
    assert load(stack).tracker_names == ("mlflow", "wandb")


def test_given_values_go_before_the_environment(shell: pytest.MonkeyPatch) -> None:
    """`from_environment` takes what it is given and leaves only the rest to the shell."""
    set_all(shell, {**S3_OF_THE_SHELL, "PRESSWORK_TENANT": "shell", "PRESSWORK_POOL": "shell"})
    settings = from_environment({**STACK, "PRESSWORK_TENANT": "given"})
    assert (settings.tenant, settings.pool) == ("given", "shell")
    assert bucket(settings) == STACK_BUCKET


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRESSWORK_DATABASE_URL", "sqlite:///x"),
        ("PRESSWORK_DATABASE_URL", "postgresql://u:secret@h:port/x"),
        ("PRESSWORK_BROKER_URL", "amqp://h"),
        ("PRESSWORK_S3_ENDPOINT", "elsewhere:9000"),
        ("PRESSWORK_S3_ENDPOINT", "http://"),
        ("PRESSWORK_LEASE_S", "0"),
        ("PRESSWORK_POOL", "gpu,,cpu"),
        ("PRESSWORK_BATCH_SIZE", "many"),
        ("PRESSWORK_LINK_S", str(8 * 86400)),
        ("PRESSWORK_TRACKERS", "wandb, mlfow"),
    ],
)
def test_a_value_that_cannot_be_used(
    tmp_path: Path, shell: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """It is refused when settings are loaded, under the variable's name."""
    set_all(shell, {**STACK, name: value})
    with pytest.raises(ValidationError) as caught:
        load(tmp_path)
    assert [variable(str(error["loc"][0])) for error in caught.value.errors()] == [name]


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:8333", "https://s3.example.org/", "https://h/storage/v1/s3"]
)
def test_endpoints(endpoint: str) -> None:
    """A store may be anywhere that HTTP reaches, below a path too."""
    settings = from_environment({**STACK, "PRESSWORK_S3_ENDPOINT": endpoint})
    assert settings.s3_endpoint == endpoint


def test_variables_of_fields() -> None:
    """A field's variable has our prefix."""
    assert variable("lease_s") == "PRESSWORK_LEASE_S"


def test_settings_are_frozen_and_keep_their_secrets() -> None:
    """Nothing changes them, and their repr may be logged."""
    settings = from_environment(STACK)
    with pytest.raises(ValidationError):
        settings.tenant = "other"  # type: ignore[misc]
    assert "u:stack" not in repr(settings)
    assert ":stack@" not in repr(settings)
    assert "stack secret" not in repr(settings)


def test_a_secret_that_cannot_be_used_stays_one() -> None:
    """What is wrong with it is said in tracebacks, which end up in logs; not the value."""
    with pytest.raises(ValidationError, match="at least 16 characters") as raised:
        Settings.model_validate({"signing_key": "hush", "database_url": "mysql://u:hush@h/x"})
    assert "hush" not in str(raised.value)


def test_a_database_url_without_a_driver_uses_ours() -> None:
    """The form that everyone writes is taken as it is."""
    settings = from_environment({**STACK, "PRESSWORK_DATABASE_URL": "postgresql://u:p@h/x"})
    engine = settings.engine("test")
    assert engine.url.drivername == "postgresql+psycopg"
    engine.dispose()
