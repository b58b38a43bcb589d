#!/usr/bin/env bash
# Tells by mail that a deploy has failed. SMTP_URL (smtps://host:465), SMTP_USER, SMTP_PASSWORD, MAIL_FROM, MAIL_TO (one or more,
# separated by commas), SUBJECT, TEXT.
set -euo pipefail
: "${SMTP_URL:?where mail is handed in, such as smtps://mail.example.com:465}" "${MAIL_FROM:?}" "${MAIL_TO:?}"
options=()
IFS=', ' read -ra recipients <<<"$MAIL_TO"
for each in "${recipients[@]}"; do
  options+=(--mail-rcpt "$each")
done
# Without a line break nothing can be added to the header. The password is not in the argument list.
subject=${SUBJECT:-A deploy has failed}
{
  printf 'From: %s\r\nTo: %s\r\nSubject: %s\r\nContent-Type: text/plain; charset=utf-8\r\n' \
    "$MAIL_FROM" "$MAIL_TO" "${subject//[$'\r\n']/ }"
  printf 'Date: %s\r\n\r\n%s\r\n' "$(LC_ALL=C date --rfc-email)" "${TEXT:-}"
} | curl --silent --show-error --max-time 60 --url "$SMTP_URL" --mail-from "$MAIL_FROM" "${options[@]}" --upload-file - \
  ${SMTP_USER:+--config <(printf 'user = "%s:%s"\n' "$SMTP_USER" "${SMTP_PASSWORD:-}")}
