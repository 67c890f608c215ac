"""What is wrong with an image, as one sentence."""


class ImageError(ValueError):
    """An image is missing, or holds what CRIU does not write. The text names the file, the field and the value.

    Attributes:
        file: The file's path below the folder of the images.
    """

    def __init__(self, file: str, what: str) -> None:
        super().__init__(f"{file}: {what}")
        self.file = file
