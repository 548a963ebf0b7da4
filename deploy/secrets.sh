#!/bin/sh
# Makes the secrets of docker-compose.secure.yml, as far as they are missing, and then runs the command that it is given.
# What exists stays as it is, but certificates that expire within 30 days, are not for HOST_ADDRESS or not of the authority,
# are replaced, which the daemons notice.
#
#     /keys/authority     ca.key; the password of the console's user admin    no daemon has these
#     /keys/shared        ca.pem; hashes of all tokens                        all daemons can read these
#     /keys/NAME          node.pem, which is key and certificate; token       only the daemon of this name can read these
#     /keys/nsqadmin      users, too

set -eu
umask 077
cd /keys

certificate() { # OPTION...: a key and its certificate, into new.key and new.pem
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout authority/new.key -out authority/new.pem \
        "$@" 2>authority/log || { cat authority/log; exit 1; }
}

is_good() { # FILE: a certificate that can stay
    openssl verify -CAfile shared/ca.pem "$1" >/dev/null 2>&1 &&
        openssl x509 -in "$1" -noout -checkend $((30 * 86400)) >/dev/null &&
        openssl x509 -in "$1" -noout -checkip "${HOST_ADDRESS:-127.0.0.1}" | grep -q 'does match'
}

token() { # FILE NAME SCOPE...: one that was made, and then not written, is replaced
    file=$1 name=$2
    shift 2
    test -s "$file" && return
    nsqd token revoke --tokens-file=shared/tokens "$name" 2>/dev/null || true
    nsqd token new --tokens-file=shared/tokens --name="$name" "$@" >"$file.new"
    mv "$file.new" "$file"
}

if ! test -s shared/ca.pem; then
    certificate -days 3650 -subj '/CN=NSQ' -addext 'keyUsage=critical,keyCertSign,cRLSign'
    mv authority/new.key authority/ca.key
    mv authority/new.pem shared/ca.pem
fi

for name in nsqlookupd1 nsqlookupd2 nsqd1 nsqd2 nsqd3 nsqadmin; do
    if ! is_good "$name/node.pem"; then
        names="DNS:$name,DNS:$name.copies,DNS:localhost,IP:127.0.0.1${HOST_ADDRESS:+,IP:$HOST_ADDRESS}"
        certificate -days 365 -subj "/CN=$name" -addext "subjectAltName=$names" \
            -CA shared/ca.pem -CAkey authority/ca.key -addext 'basicConstraints=critical,CA:FALSE'
        cat authority/new.key authority/new.pem >"$name/node.pem.new"
        mv "$name/node.pem.new" "$name/node.pem"
    fi
done

for name in nsqd1 nsqd2 nsqd3; do
    token "$name/token" "$name" --scope=operate # to register
done
token nsqadmin/token nsqadmin --scope=operate --scope=publish --scope=consume

if ! test -s nsqadmin/users; then
    python -c 'import secrets; print(secrets.token_urlsafe(15))' >authority/password
    nsqadmin user add --users-file=nsqadmin/users --role=admin admin <authority/password
fi

rm -f authority/new.key authority/new.pem authority/log
cd "$OLDPWD"
exec "$@"
