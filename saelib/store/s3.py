"""Object storage for zarr: S3, and whatever speaks its protocol.

Credentials, region and endpoint are found as every AWS tool finds them: in the environment (`AWS_PROFILE`,
`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...) and in `~/.aws`. Errors never repeat the whole answer of a server, only
its code, because some answers quote parts of a signature.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from urllib.parse import urlsplit

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from saelib.errors import UserError

try:
    import obstore
    from boto3 import Session
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.exceptions import BaseError, GenericError
    from obstore.store import S3Store
except ImportError:
    raise UserError("stores on object storage need two more packages: pip install 'saelib[s3]'") from None

GIVE_UP_AFTER = timedelta(seconds=60)
"""Time after which a server that does not answer fails the job, which can be run again."""
CONNECT_TIMEOUT, REQUEST_TIMEOUT = "10s", "120s"


def open_bucket(bucket: str) -> "S3Folder":
    """Returns a bucket without sending anything yet. Raises `UserError` if credentials or settings are unusable."""
    return S3Folder(_connect(bucket))


@cache
def _connect(bucket: str) -> S3Store:
    """Makes the one connection that all reads and writes share.

    Raises:
        UserError: if there are no credentials, or the settings cannot be used.
    """
    try:
        session = Session()
        if session.get_credentials() is None:
            raise UserError(
                f"s3://{bucket}: no AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or write ~/.aws/credentials"
            )
        found = session.client("s3", region_name=session.region_name or "us-east-1").meta
    except (BotoCoreError, ValueError) as error:
        raise UserError(f"s3://{bucket}: the AWS settings cannot be used ({type(error).__name__})") from None
    return S3Store(
        bucket,
        endpoint=found.endpoint_url,
        region=found.region_name,
        virtual_hosted_style_request=False,
        credential_provider=Boto3CredentialProvider(session),
        client_options={
            "allow_http": urlsplit(found.endpoint_url).scheme == "http",
            "connect_timeout": CONNECT_TIMEOUT,
            "timeout": REQUEST_TIMEOUT,
        },
        retry_config={"max_retries": 10, "retry_timeout": GIVE_UP_AFTER},
    )


class Unreachable(UserError):
    """The server has not answered for so long that nothing more can be done there, not even cleaning up."""


@contextmanager
def reported(url: str, action: str) -> Iterator[None]:
    """Turns what obstore raises into a `UserError` that quotes only the kind of failure."""
    try:
        yield
    except (BaseError, TimeoutError) as error:
        said = re.search(r"<Code>(\w+)</Code>", str(error)) or re.search(r"status code: ([45]\d\d)", str(error))
        if said or not isinstance(error, GenericError):
            reason = f"the server says {said[1]}" if said else type(error).__name__
            raise UserError(f"{url}: cannot be {action} ({reason})") from None
        raise Unreachable(f"{url}: cannot be {action} (no answer from the server); run it again") from None


class S3Folder(ObjectStore[S3Store]):
    """A place in a bucket: zarr's own store for obstore, below a prefix, with readable errors.

    `folder / name` is a place inside, as with `Path`. If an array was opened for reading, a missing chunk is an error;
    zarr would fill it in.
    """

    def __init__(self, store: S3Store, prefix: str = "", *, read_only: bool = False) -> None:
        """Takes a connection and a `prefix` without slashes at its ends."""
        super().__init__(store, read_only=read_only)
        self.prefix = prefix

    def __truediv__(self, name: str) -> "S3Folder":
        """Returns the place of that name inside."""
        return type(self)(self.store, self._path(name), read_only=self.read_only)

    def __str__(self) -> str:
        """Returns its address."""
        return f"s3://{self.store.config.get('bucket')}/{self.prefix}"

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}".strip("/")

    def with_read_only(self, read_only: bool = False) -> "S3Folder":
        """Returns the same place, for reading only or for writing too."""
        return type(self)(self.store, self.prefix, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Reads an object for zarr. Raises `FileNotFoundError` if a chunk of an array opened for reading is missing."""
        with reported(f"{self}/{key}", "read"):
            value = await super().get(self._path(key), prototype, byte_range)
        if value is None and self.read_only and key.startswith("c/"):
            raise FileNotFoundError(f"{self}/{key} is gone")
        return value

    async def set(self, key: str, value: Buffer) -> None:
        """Writes one object for zarr, completely or not at all."""
        with reported(f"{self}/{key}", "written"):
            await super().set(self._path(key), value)

    async def exists(self, key: str) -> bool:
        """Tells zarr whether an object exists."""
        with reported(f"{self}/{key}", "read"):
            return await super().exists(self._path(key))

    async def delete(self, key: str) -> None:
        """Deletes an object for zarr."""
        with reported(f"{self}/{key}", "deleted"):
            await super().delete(self._path(key))

    async def delete_dir(self, prefix: str) -> None:
        """Deletes all objects below a prefix for zarr, which does so before it creates an array there."""
        folder = self / prefix
        folder.remove(folder.names())

    def read_bytes(self, name: str) -> bytes:
        """Reads the contents of an object. Raises `FileNotFoundError` if there is none."""
        with reported(f"{self}/{name}", "read"):
            return bytes(obstore.get(self.store, self._path(name)).bytes())

    def write_bytes(self, name: str, contents: bytes) -> None:
        """Writes one object, completely or not at all."""
        with reported(f"{self}/{name}", "written"):
            obstore.put(self.store, self._path(name), contents)

    def names(self) -> dict[str, datetime]:
        """Lists every object below, with the time at which it was written; each request lists a thousand."""
        with reported(str(self), "listed"):
            found = [one for page in obstore.list(self.store, f"{self.prefix}/") for one in page]
        return {one["path"].removeprefix(f"{self.prefix}/"): one["last_modified"] for one in found}

    def remove(self, names: Iterable[str]) -> None:
        """Deletes objects, ignoring those that are already gone."""
        with reported(str(self), "deleted"):
            obstore.delete(self.store, [self._path(name) for name in names])

    def replace(self, target: "S3Folder") -> None:
        """Moves every object to `target`, whose own objects are deleted first."""
        target.remove(target.names())
        names = list(self.names())
        with reported(str(self), "moved"):
            for name in names:
                obstore.copy(self.store, self._path(name), target._path(name))
        self.remove(names)
