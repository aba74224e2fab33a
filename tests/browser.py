"""Finds a browser of Chromium's family, and says how to get one."""

import os
import shutil
from pathlib import Path

COMMANDS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "brave-browser",
)

APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)

HOW_TO_GET_ONE = (
    "no Chromium was found: apt-get install chromium (Debian, Ubuntu), brew install --cask chromium (macOS), or name the "
    "program of one in the environment variable CHROMIUM"
)


def find_browser() -> str | None:
    """Returns the program named in CHROMIUM, or the first that is installed; None without one."""
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    commands = filter(None, map(shutil.which, COMMANDS))
    return next(commands, None) or next((path for path in APPLICATIONS if Path(path).is_file()), None)
