"""Takes docs/images/page.png, the picture of the page in the README, with headless Chromium and its driver."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from selenium import webdriver


OUTPUT = Path(__file__).resolve().parent.parent / "docs/images/page.png"
PORT, PATIENCE = 7871, 300  # seconds


def wait_for(address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def main() -> None:
    address = f"http://127.0.0.1:{PORT}/"
    environment = os.environ | {"GRADIO_SERVER_PORT": str(PORT)}
    page = subprocess.Popen([sys.executable, "app.py"], env=environment, cwd=OUTPUT.parents[2])
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1180,1500"):
        options.add_argument(argument)
    try:
        wait_for(address)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            browser.get(address)
            deadline = time.monotonic() + PATIENCE
            while not browser.execute_script("return document.querySelector('#result img')?.naturalWidth"):
                assert time.monotonic() < deadline
                time.sleep(0.5)
            time.sleep(2)
            OUTPUT.parent.mkdir(exist_ok=True)
            browser.save_screenshot(str(OUTPUT))
        finally:
            browser.quit()
    finally:
        page.terminate()
        page.wait(30)
    image = Image.open(OUTPUT).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(OUTPUT, optimize=True)
    print(f"{OUTPUT}: {image.size}, {OUTPUT.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
