"""Re-exports Label Studio's brush code of `formats.rle` under the module name that outside scripts import."""

from fewmask.formats.rle import decode_brush as decode_brush
from fewmask.formats.rle import encode_brush as encode_brush
