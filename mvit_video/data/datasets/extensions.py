"""Which files of a folder are videos, and which are images.

Videos have the extensions of the containers and streams that FFmpeg's demuxers read.

FFmpeg itself names extensions for some demuxers only (none for MPEG-TS of cameras, DVD or RealMedia), and sound,
subtitles and single pictures among them; so the list is fixed here, and the same with every build of FFmpeg.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mvit_video.images.formats import IMAGE_EXTENSIONS

# By the demuxer that reads them, as `ffmpeg -demuxers` names it.
EXTENSIONS_OF_DEMUXER: Mapping[str, tuple[str, ...]] = {
    "mov": (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3gpp", ".3g2", ".f4v", ".mj2", ".ismv"),
    "matroska": (".mkv", ".webm", ".mk3d"),
    "avi": (".avi", ".divx", ".xvid", ".amv"),
    "mpeg": (".mpg", ".mpeg", ".mpe", ".m2p", ".vob", ".mod"),
    "mpegts": (".ts", ".mts", ".m2ts", ".m2t", ".tod"),
    "flv": (".flv",),
    "asf": (".wmv", ".asf"),
    "ogg": (".ogv", ".ogm"),
    "mxf": (".mxf",),
    "gxf": (".gxf",),
    "dv": (".dv", ".dif"),
    "rm": (".rm", ".rmvb"),
    "wtv": (".wtv",),
    "nut": (".nut",),
    "gif": (".gif",),
    "ivf": (".ivf",),
    "obu": (".obu",),
    "mpegvideo": (".m1v", ".m2v"),
    "h264": (".h264", ".264"),
    "hevc": (".hevc", ".h265", ".265"),
    "mjpeg": (".mjpeg", ".mjpg"),
    "yuv4mpegpipe": (".y4m",),
}
# The usual ones first: of two files that differ in their extension alone, the earlier is taken.
VIDEO_EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v") + tuple(
    extension
    for extensions in EXTENSIONS_OF_DEMUXER.values()
    for extension in extensions
    if extension not in (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
)


@dataclass(frozen=True)
class FileKind:
    """What a data set is made of.

    Attributes:
        noun: what people call one of them.
        extensions: of the files that are such, in lower case, the usual ones first.
    """

    noun: str
    extensions: tuple[str, ...]

    @property
    def plural(self) -> str:
        return " or ".join(f"{noun}s" for noun in self.noun.split(" or "))

    @property
    def one(self) -> str:
        """The noun with its article."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    def has(self, name: str) -> bool:
        """Whether a file of that name is one."""
        return name.lower().endswith(self.extensions)


VIDEOS = FileKind("video", VIDEO_EXTENSIONS)
IMAGES = FileKind("image", IMAGE_EXTENSIONS)
PICTURES = FileKind(
    "image or video", IMAGE_EXTENSIONS + tuple(e for e in VIDEO_EXTENSIONS if e not in IMAGE_EXTENSIONS)
)
