"""fuse: sibling branches become wide layers.

Branches that compute the same with other weights are found by their structure alone, whoever exported the model
(``siblings``); which of their layers can be one layer, and in which order the branches then lie side by side, is
planned first (``plan``), operator by operator (``rules``); then the wide layers are written (``fusion``). A *pack* is a
row of tensors that one wide tensor holds, one after the other along the channels.

Results agree with the unfused graph within rounding. Whether a form is faster is not known here: it is measured, on the
target (DESIGN, section 5).
"""

from .form import FORMS, Form
from .fusion import Fuse
from .siblings import siblings

__all__ = ["FORMS", "Form", "Fuse", "siblings"]
