"""Chromium for the tests of the web page, driven by chromedriver; and a client that sends forms as a browser does."""

import base64
import html
import http.client
import os
import pathlib
import re
import shutil
import urllib.parse

import pytest

SECONDS = 60
# Where screenshots are written; one of them is in docs/.
SCREENSHOTS = pathlib.Path(os.environ.get("SCREENSHOTS", "target/screenshots"))
PHONE = 360
# Texts whose contrast with what is behind them is below that of WCAG 2.2 AA: 4.5, or 3 for large ones.
FAINT = """
const luminance = (color) => {
  const channels = color.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255);
  const [r, g, b] = channels.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if (!/rgba\\(.*, 0\\)|transparent/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
const faint = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.closest("svg, .sr") || !element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const [a, b] = [luminance(style.color), luminance(behind(element))].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize);
  const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  if ((a + 0.05) / (b + 0.05) < least) faint.push(`${element.tagName}.${element.className}: ${element.textContent.slice(0, 40)}`);
}
return faint;
"""
# Fields without a label, buttons and links without a name, ids that are there twice, tables without headings.
UNNAMED = """
const bad = [];
for (const field of document.querySelectorAll("input:not([type=hidden]), textarea, select"))
  if (!field.labels.length && !field.ariaLabel) bad.push(`no label: ${field.outerHTML}`);
for (const one of document.querySelectorAll("a, button"))
  if (!one.textContent.trim() && !one.ariaLabel) bad.push(`no name: ${one.outerHTML}`);
for (const table of document.querySelectorAll("table"))
  if (!table.querySelector("thead th[scope=col]")) bad.push(`no headings: ${table.id}`);
const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) bad.push(`twice: ${id}`);
if (document.querySelectorAll("h1").length !== 1) bad.push("not one h1");
if (!document.documentElement.lang) bad.push("no language");
return bad;
"""


def require_chromium():
    """Skips the test where Chromium is missing; in continuous integration it must be there."""
    missing = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
    if missing:
        why = f"not on this machine: {', '.join(missing)} (Debian: chromium, chromium-driver)"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)


class Browser:
    """A headless Chromium with a profile of its own."""

    def __init__(self, profile, javascript=True):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
            "--window-size=1200,900", f"--user-data-dir={profile}",
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if not javascript:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.set_page_load_timeout(SECONDS)

    def close(self):
        self.driver.quit()

    def open(self, url):
        self.driver.get(url)

    @property
    def url(self):
        return self.driver.current_url

    def find(self, selector):
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return [one.get_attribute("textContent").strip() for one in self.all(selector)]

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition, what):
        """Waits until `condition()` is true; a part of the page that is replaced meanwhile is looked at again."""
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = (NoSuchElementException, StaleElementReferenceException)
        return WebDriverWait(self.driver, SECONDS, 0.1, ignored).until(lambda _: condition(), what)

    def click(self, selector):
        """Clicks what leads to another page, and waits for that."""
        from selenium.webdriver.support import expected_conditions

        before = self.find("html")
        self.find(selector).click()
        self.wait(lambda: expected_conditions.staleness_of(before)(self.driver), f"{selector} leads to another page")

    def complaints(self):
        """What the browser says of the pages since the last call, violations of their policy among it."""
        entries = self.driver.get_log("browser")
        # A page that is not shown for want of rights or by a wrong password is an error for the browser, too.
        return [one["message"] for one in entries if one["level"] == "SEVERE" and "the server responded with" not in one["message"]]

    def scheme(self, name):
        """`light` or `dark`, as a system has it."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def width(self, pixels):
        """The width of a device, or with 0 that of the window."""
        if pixels:
            device = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        else:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def screenshot(self, name):
        """The whole page as a picture."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))

    def check_page(self, name):
        """Everybody can read and operate the page: in light and dark, on a phone, by labels; takes pictures of it."""
        unnamed = self.run(UNNAMED)
        assert unnamed == [], (name, unnamed)
        for scheme in ("light", "dark"):
            self.scheme(scheme)
            faint = self.run(FAINT)
            assert faint == [], (name, scheme, faint)
            self.screenshot(f"{name}-{scheme}")
        self.scheme("light")
        self.width(PHONE)
        assert self.run("return document.documentElement.scrollWidth") <= PHONE, f"{name} is wider than a phone"
        self.screenshot(f"{name}-phone")
        self.width(0)
        complaints = self.complaints()
        assert complaints == [], (name, complaints)


class FormClient:
    """Gets pages and sends forms at one HTTP port, with the cookies that it was given."""

    def __init__(self, host, port):
        self.address, self.cookies = (host, port), {}

    def request(self, method, path, body=None, **headers):
        """Returns status, headers and text."""
        connection = http.client.HTTPConnection(*self.address, timeout=SECONDS)
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        for cookie in response.headers.get_all("set-cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if "Max-Age=0" not in cookie:
                self.cookies[name] = value
        return response.status, response.headers, text

    def get(self, path):
        return self.request("GET", path)

    def csrf(self, path):
        """The secret of a page's forms."""
        return html.unescape(re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get(path)[2]).group(1))

    def send(self, path, fields, page=None, **headers):
        """Sends a form, with the secret of `page` if it is given."""
        if page is not None:
            fields = fields | {"csrf": self.csrf(page)}
        headers["content-type"] = "application/x-www-form-urlencoded"
        return self.request("POST", path, urllib.parse.urlencode(fields), **headers)

    def login(self, user, password):
        return self.send("/ui/login", {"user": user, "password": password, "next": "/ui/tables"}, page="/ui/login")
