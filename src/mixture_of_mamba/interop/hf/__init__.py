"""Classes for transformers, registered with its Auto classes; this imports transformers."""

from ...extras import needs

with needs("interop.hf", "train"):
    import transformers  # noqa: F401

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ...layers import PROJECTIONS
from .configuration import MixtureOfMambaConfig
from .convert import from_multimodal, to_multimodal
from .modeling import MixtureOfMambaForCausalLM, MixtureOfMambaModel

__all__ = [
    "LORA_TARGETS",
    "MixtureOfMambaConfig",
    "MixtureOfMambaForCausalLM",
    "MixtureOfMambaModel",
    "from_multimodal",
    "to_multimodal",
]

#: For `peft.LoraConfig(target_parameters=...)`: one low-rank pair per expert of every projection.
LORA_TARGETS = [f"{projection}.weight" for projection in sorted(PROJECTIONS)]

AutoConfig.register(MixtureOfMambaConfig.model_type, MixtureOfMambaConfig, exist_ok=True)
AutoModel.register(MixtureOfMambaConfig, MixtureOfMambaModel, exist_ok=True)
AutoModelForCausalLM.register(MixtureOfMambaConfig, MixtureOfMambaForCausalLM, exist_ok=True)
# By this table the Trainer's label smoothing knows that labels are to be shifted, and the
# pipelines which classes write text.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[MixtureOfMambaConfig.model_type] = (
    MixtureOfMambaForCausalLM.__name__
)
