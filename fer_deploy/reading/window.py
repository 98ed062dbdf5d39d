"""A window that shows pictures, made with Tk, which is part of Python."""

from __future__ import annotations

from fer_deploy.errors import UnavailableError
from fer_deploy.pictures import Pixels

_LARGEST_SHARE = 0.8  # of the screen's width and height


class Window:
    """An open window. Escape, q or its close button closes it.

    Raises:
        UnavailableError: there is no display, or Python was built without Tk.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            raise UnavailableError("a window needs Tk: install your system's package python3-tk") from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UnavailableError(f"a window needs a display: {error}") from error
        self._image_tk = ImageTk
        self._root.title(title)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self.is_open = True
        for event in ("<Escape>", "q"):
            self._root.bind(event, lambda _: self.close())
        self._root.protocol("WM_DELETE_WINDOW", self.close)

    def show(self, pixels: Pixels) -> None:
        """Show a picture, uint8 (height, width, 3), reduced to fit the screen, and handle keys and clicks."""
        if not self.is_open:
            return
        from PIL import Image

        image = Image.fromarray(pixels)
        screen = self._root.winfo_screenwidth(), self._root.winfo_screenheight()
        image.thumbnail((int(screen[0] * _LARGEST_SHARE), int(screen[1] * _LARGEST_SHARE)))
        self._photo = self._image_tk.PhotoImage(image)  # kept here, since Tk holds no reference to it
        self._label.configure(image=str(self._photo))
        self._root.update()

    def close(self) -> None:
        """Close the window."""
        if self.is_open:
            self.is_open = False
            self._root.destroy()
