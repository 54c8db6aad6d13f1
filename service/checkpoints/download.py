"""Downloads from the Hugging Face hub. Imported by who does: the hub's library takes its time."""

from __future__ import annotations

from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from service.errors import CheckpointError


def download(hub_id: str, patterns: list[str], *, offline: bool) -> Path:
    """Return a folder with the files of a model that these patterns name, from the cache or anew.

    Raises:
        CheckpointError: if there is no such model, or it cannot be reached; says what to do.
    """
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=offline))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{hub_id}: the hub gives it to accepted users only; log in with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(f"{hub_id}: the hub has no such model, nor is it a path") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.TransportError) as error:
        raise CheckpointError(
            f"{hub_id}: not in the local cache, and the hub is switched off or out of reach; "
            f"run `hf download {hub_id}` where there is a network, or give the path of a folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{hub_id}: the download failed: {error}") from error
