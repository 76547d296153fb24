"""The models under measurement: VAN from scratch, everything else through timm or the user's own callable.

Importing this package registers `van_b0` to `van_b6` with timm, so that `timm.create_model("van_b2")` works.
It holds no weights, downloads nothing and measures nothing.
"""

from vanbench.models import van as van
from vanbench.models.convert import Converted as Converted
from vanbench.models.convert import convert as convert
