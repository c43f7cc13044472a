"""Headless Chromium, as a person at the Prefect UI would use it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 60
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1400,1000",
)


@contextmanager
def chromium(profile: Path) -> Iterator[WebDriver]:
    """A browser with an empty profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def click(driver: WebDriver, xpath: str) -> None:
    """Click an element as soon as it can be clicked."""
    waiting = WebDriverWait(driver, SECONDS)
    waiting.until(expected_conditions.element_to_be_clickable((By.XPATH, xpath))).click()


def requested_urls(driver: WebDriver) -> set[str]:
    """Everything that the pages have asked for since the last question, web sockets too."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    forbidden = {  # by the page's own policy, before anything is sent
        m["params"]["requestId"]
        for m in messages
        if m["method"] == "Network.loadingFailed" and m["params"].get("blockedReason") == "csp"
    }
    http = {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent" and m["params"]["requestId"] not in forbidden
    }
    return http | {m["params"]["url"] for m in messages if m["method"] == "Network.webSocketCreated"}


def wait_for_text(driver: WebDriver, text: str) -> None:
    """Wait until the page shows a text."""
    WebDriverWait(driver, SECONDS).until(lambda page: text in page.find_element(By.TAG_NAME, "body").text, text)
