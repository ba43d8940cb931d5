/* What the files of TLS share: see include/ctls_tls.h. */
#ifndef CTLS_TLS_INTERNAL_H
#define CTLS_TLS_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ctls_tls.h"

#include <openssl/ssl.h>

/* RFC 1035 section 3.1. */
#define HOST_BYTES_MAX 255
/* Hosts for which a client keeps a session. */
#define KEPT_SESSIONS_MAX 16
/* Tickets that a client of TLS 1.3 gets with a handshake: browsers use each for one connection. */
#define TICKETS_EACH 2

struct pair {
    X509 *certificate;
    EVP_PKEY *key;
    STACK_OF(X509) *chain;
};

struct certificate_name {
    char *text; /* lower case; the first label may be "*" */
    uint32_t pair;
};

struct kept_session {
    char *name;
    SSL_SESSION *session;
};

struct ctls_context {
    SSL_CTX *library;
    bool is_server;
    bool trusts_everyone;
    struct pair *pairs;
    size_t pairs_count;
    struct certificate_name *names; /* sorted by text, then as configured */
    size_t names_count;
    unsigned char ticket_keys[CTLS_TICKET_KEYS_MAX][CTLS_TICKET_KEY_BYTES];
    size_t ticket_keys_count;
    EVP_CIPHER *ticket_cipher; /* looked up once: by name it costs more than it encrypts */
    struct kept_session kept[KEPT_SESSIONS_MAX];
    size_t kept_next;
};

struct ctls_session {
    SSL *ssl;
    ctls_context *context;
    char *name; /* client: the server's name; NULL: none */
    char *text; /* why it broke; NULL: it did not */
    bool is_established;
    bool finish_waits; /* the alert of the end waits for room in the socket */
};

/* The session that a client may resume with the host, or NULL. */
SSL_SESSION *context_kept_session(const ctls_context *context, const char *name);

#endif
