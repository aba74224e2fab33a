"""All forms that are measured, in the order in which they are shown."""

from .forms import DenseForm, Form, MaskedForm, PackedForm, SparseForm
from .runtimes import OnnxRuntime, OpenVino

FORMS: dict[str, Form] = {
    form.name: form for form in (DenseForm(), MaskedForm(), SparseForm(), PackedForm(), OnnxRuntime(), OpenVino())
}
"""By name; the others are compared with the first."""
