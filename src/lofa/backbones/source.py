"""Where the parts of a backbone come from: the files of a diffusers model, opened one by one, or bare constructors."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from lofa.errors import BackboneError, DataError
from lofa.files import read_json, read_tensors
from lofa.ranges import open_tensors

__all__ = ["BareModel", "Source"]

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}


class Source:
    """A diffusers folder, or a model on the hub of which what is asked for alone is fetched.

    A component is a subfolder of the model.

    Args:
        name: of the backbone, for messages
        path: the folder or hub id
    """

    def __init__(self, name: str, path: str | Path) -> None:
        self.name, self._path = name, str(path)
        self.folder = Path(path) if Path(path).is_dir() else None

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """The pipeline's own values: component -> (library, class), boundary_ratio ..."""
        file = self._file("model_index.json")
        if file is None:
            there = [] if self.folder is None else sorted(file.name for file in self.folder.iterdir())[:6]
            raise BackboneError(
                f"{self._path}: no diffusers model (it has no model_index.json); found {', '.join(there) or 'nothing'}"
            )
        values: Mapping[str, Any] = read_json(file)
        return values

    def config(self, component: str) -> Mapping[str, Any]:
        """The configuration of a component (BackboneError: it can't be had)."""
        path = f"{component}/{_CONFIGS.get(component, 'config.json')}"
        file = self._file(path)
        if file is None:
            raise BackboneError(f"{self._path}: no {path} in it")
        values: Mapping[str, Any] = read_json(file)
        return values

    def tensor(self, component: str, name: str) -> Tensor | None:
        """A tensor of a component's weights, read by itself; None where they lie in no file that allows it.

        Raises:
            BackboneError: the files are damaged or lack the tensor.
        """
        files = self._weights(component, fetch=True)
        if files is None:
            return None
        if name not in files:
            raise BackboneError(f"{self._path}: no tensor {name} among the {len(files)} of {component}")
        with self._faults():
            return read_tensors(files[name], [name])[name]

    def sample(self, component: str, count: int) -> dict[str, Tensor] | None:
        """The first `count` values of each tensor of a component; None where its weight files are not here."""
        files = self._weights(component, fetch=False)
        if files is None:
            return None
        found: dict[str, Tensor] = {}
        with self._faults():
            for file in dict.fromkeys(files.values()):
                with open_tensors(file) as tensors:
                    found |= tensors.read(count=count)
        return found

    def load(self, component: str, kind: Any, **values: Any) -> Any:
        """The component, made by `kind.from_pretrained`; `values` are for it (BackboneError: it can't be had)."""
        try:
            with _quiet():
                return kind.from_pretrained(
                    self._path, subfolder=component, local_files_only=self.folder is not None, **values
                )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            if self.folder is None:
                raise self._unreachable(error) from None
            raise BackboneError(
                f"{self.folder / component}: can't be loaded as {kind.__name__} ({_reason(error)})"
            ) from None

    def _weights(self, component: str, fetch: bool) -> dict[str, Path] | None:
        """Tensor -> file, of the files that diffusers loads; with `fetch`, they are downloaded."""
        index = self._file(f"{component}/{_WEIGHTS}.index.json", fetch)
        if index is None:
            file = self._file(f"{component}/{_WEIGHTS}", fetch)
            if file is None:
                return None
            with self._faults(), open_tensors(file) as tensors:
                return dict.fromkeys(tensors.shapes, file)
        shard_of: dict[str, str] = read_json(index)["weight_map"]
        shards = {shard: self._file(f"{component}/{shard}", fetch) for shard in dict.fromkeys(shard_of.values())}
        files = {name: file for name, shard in shard_of.items() if (file := shards[shard]) is not None}
        return files if len(files) == len(shard_of) else None

    def _file(self, path: str, fetch: bool = True) -> Path | None:
        """A file of the model; None where it has none of that name, or, without `fetch`, where it is not here."""
        if self.folder is not None:
            return self.folder / path if (self.folder / path).is_file() else None
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        if not fetch:
            cached = try_to_load_from_cache(self._path, path)
            return Path(cached) if isinstance(cached, str) else None
        try:
            return Path(hf_hub_download(self._path, path))
        except LocalEntryNotFoundError as error:
            raise self._unreachable(error) from None
        except EntryNotFoundError:
            return None
        except (OSError, ValueError, RuntimeError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> BackboneError:
        return BackboneError(
            f"{self.name}: can't get {self._path} from the hub ({_reason(error)}). Without the hub, download it "
            f"elsewhere (hf download {self._path} --local-dir <folder>) and give that folder: backbone.path=<folder>"
        )

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise BackboneError(str(error)) from None


def _reason(error: Exception) -> str:
    return shorten(str(error) or type(error).__name__, 160, placeholder=" ...")


class BareModel(Source):
    """A denoiser without files, made by its constructors: on the meta device for layer tables of any size, on another
    one with random weights for benchmarks.

    Args:
        name: of the backbone, for messages
        architecture: as in `BackboneConfig`
        device: where networks are made
    """

    def __init__(self, name: str, architecture: Mapping[str, Any], device: torch.device | str) -> None:
        self.name, self.folder, self._device = name, None, device
        values = json.loads(json.dumps(dict(architecture)))
        self._configs = {key: value for key, value in values.items() if isinstance(value, dict)}
        self.index = values | {component: (None, "bare") for component in self._configs}

    def config(self, component: str) -> Mapping[str, Any]:
        """As in `Source`; empty for what has no architecture."""
        return self._configs.get(component, {})

    def _file(self, path: str, fetch: bool = True) -> None:
        """None: there are no files."""

    def load(self, component: str, kind: Any, **values: Any) -> Any:
        """As in `Source`, of random weights."""
        if component not in self._configs:
            raise BackboneError(f"{self.name}: made of its architecture alone, it has no {component}")
        with torch.device(self._device):
            return kind(**self._configs[component]).to(values["dtype"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' progress bars and advice; errors are ours to report."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    verbosities = [(library, library.get_verbosity()) for library in (of_diffusers, of_transformers)]
    for library, _ in verbosities:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity in verbosities:
            library.set_verbosity(verbosity)
            library.enable_progress_bar()
