#!/bin/sh
# Makes every secret file that compose.yaml names, in secrets/ or the folder given. What is there already stays as it is.
set -eu
folder=${1:-$(dirname "$0")/../secrets}
umask 077
mkdir -p "$folder"
# Nobody else may enter. The files within are readable, as containers read them by users of their own.
chmod 700 "$folder"
cd "$folder"

password() {
    head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

# keep FILE TEXT
keep() {
    test -s "$1" || { printf '%s\n' "$2" > "$1.new" && chmod 444 "$1.new" && mv "$1.new" "$1"; }
}

keep postgres_superuser_password "$(password)"
keep postgres_password "$(password)"
keep QUOTEBUS_POSTGRES__DSN "postgresql://quotebus:$(cat postgres_password)@postgres:5432/quotebus"

keep QUOTEBUS_NATS__PASSWORD "$(password)"
keep nats_users.conf "users: [{ user: quotebus, password: \"$(cat QUOTEBUS_NATS__PASSWORD)\" }]"

keep redis_password "$(password)"
keep QUOTEBUS_REDIS__URL "redis://quotebus:$(cat redis_password)@redis:6379/0"
keep redis_users.acl "user default on nopass -@all +ping
user quotebus on >$(cat redis_password) ~* &* +@all -@admin -@dangerous"

# What changing requests over HTTP need; the gateway itself knows only its hash.
keep gateway_token "$(password)"
keep QUOTEBUS_GATEWAY__TOKENS__OPERATOR__SHA256 "$(tr -d '\n' < gateway_token | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c 1-64)"

# Keys of providers, and who is to be notified: empty until you write yours into them.
for name in QUOTEBUS_PROVIDERS__TIINGO__API_KEY QUOTEBUS_PROVIDERS__ALPHA_VANTAGE__API_KEY QUOTEBUS_NOTIFY; do
    test -e "$name" || { : > "$name" && chmod 644 "$name"; }
done
