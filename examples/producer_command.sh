#!/usr/bin/env bash
# Submits a campaign with the command, waits for its end, and fetches what it made.
set -euo pipefail
campaign="$(dirname "$0")/spring-sale/campaign.yaml"
id=$(presswork campaign submit "$campaign")
while ! presswork campaign status "$id" --json | grep -q '"status": "finished"'; do
  sleep 1
done
presswork campaign export "$id" --out "${1:-out/spring-sale}"
