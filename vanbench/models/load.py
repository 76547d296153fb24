"""A model by name: VAN, anything timm has, or the user's own `package.module:callable`; and what it costs.

Nothing is downloaded: weights start random (`weights.py` redraws them) or come from a file through `load_checkpoint`.
Nothing here touches a GPU.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import clean_state_dict, load_state_dict
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vanbench.errors import UserError, unknown
from vanbench.models import van as van  # registers van_b0..van_b6 with timm


def create(name: str, **kwargs: Any) -> nn.Module:
    """The model called `name`, randomly initialised, on the current default device.

    Args:
        name: a timm model such as "van_b0" or "resnet50", or "package.module:callable" for a callable that gives an
            nn.Module; the current directory is importable.
        kwargs: passed on as they are, such as num_classes, in_chans, drop_path_rate.

    Raises:
        UserError: for an unknown name, a module or callable that is not there, fails or gives something else, and
            for keyword arguments that the model does not take.
    """
    if ":" in name:
        return _create_own(name, kwargs)
    # Tags such as resnet50.a1_in1k choose trained weights, which we never load; the architecture is what we build.
    if not timm.is_model(name):
        raise unknown("model", name, timm_names())
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
    except TypeError as error:
        raise UserError(f"model {name!r} cannot be built with {_written(kwargs)}: {error}") from error
    return model


def timm_names(pattern: str = "*") -> list[str]:
    """The names timm knows that match a shell pattern, sorted as timm sorts them, VAN among them."""
    return list(timm.list_models(pattern))


def load_checkpoint(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]) -> None:
    """Load a published checkpoint into `model`, strictly.

    Args:
        model: takes the values in place, on its own device and in its own dtype.
        source: a file of torch.save or safetensors, or what such a file holds: parameters by name, plain or under
            "state_dict", with or without a "module." prefix. Files are read without running any code in them.

    Raises:
        UserError: for a file that is missing or is no checkpoint, and for missing, extra or misshapen parameters.
    """
    state: Mapping[str, Tensor]
    if isinstance(source, Mapping):
        state = clean_state_dict(source.get("state_dict", source))
        label = "the checkpoint"
    else:
        path = Path(source)
        label = f"checkpoint {str(path)!r}"
        if not path.is_file():
            raise UserError(f"{label}: no such file")
        try:
            state = load_state_dict(str(path), use_ema=False)
        except Exception as error:  # torch.load has no exception class of its own for a file it cannot read
            raise UserError(f"{label} cannot be read: {error}") from error
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{label} does not fit the model: {error}") from error


def cost_of(name: str, image_size: int) -> tuple[int, int | None]:
    """Parameters, and multiply-accumulates of one forward pass of one square image of `image_size` pixels.

    Convolutions, linear layers and other matrix products count, norms and activations do not: PyTorch's
    FlopCounterMode, halved, on tensors without memory. The MACs are None for a model that cannot run so.

    Raises:
        UserError: as `create`.
    """
    model: nn.Module | None = None
    with contextlib.suppress(Exception), torch.device("meta"):
        model = create(name)
    if model is None:
        model = create(name)  # its constructor reads values, which tensors without memory have not; or it is wrong
    parameters = sum(parameter.numel() for parameter in model.parameters())
    channels = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3,))[0]
    try:
        model = model.to("meta").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, channels, image_size, image_size, device="meta"))
    except Exception:  # someone else's forward: whatever it raises means that it cannot run without memory
        return parameters, None
    return parameters, counter.get_total_flops() // 2


def find_own(name: str) -> Callable[..., Any]:
    """The callable that "package.module:callable" names, not called yet.

    Raises:
        UserError: for a module or attribute that is not there, cannot be imported, or cannot build a model.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise UserError(f"model {name!r} is not of the form 'package.module:callable'")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # stays: the user's module may import its neighbours later
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"model {name!r}: no module {error.name!r} (looked in {here} and the Python path)") from error
    except Exception as error:  # the user's own code
        raise UserError(f"model {name!r}: importing {module_name!r} failed: {_summary(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [word for word in dir(found) if not word.startswith("_")]
            raise unknown(f"name in {module_name}", part, public)
        found = getattr(found, part)
    if not callable(found) or isinstance(found, nn.Module):
        raise UserError(f"model {name!r}: {attribute} is a {type(found).__name__}, not a callable that builds a model")
    build: Callable[..., Any] = found
    return build


def _create_own(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    try:
        model = find_own(name)(**kwargs)
    except (UserError, NotImplementedError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code
        raise UserError(f"model {name!r} called with {_written(kwargs)} failed: {_summary(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model {name!r} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def _written(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in kwargs.items()) or "no arguments"


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
