"""Submits one job over HTTP and polls it: PRESSWORK_URL and PRESSWORK_API_KEY say where and who."""

import os
import time

import httpx

key = {"Authorization": f"Bearer {os.environ['PRESSWORK_API_KEY']}"}
with httpx.Client(base_url=os.environ["PRESSWORK_URL"], headers=key) as client:
    body = {"kind": "image", "request": {"prompt": "red apple on a blue background"}}
    job = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "apple-1"}).json()
    while job["status"] in ("waiting", "queued", "running"):
        time.sleep(0.5)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    print(job["status"], job["artifacts"][0]["url"])
