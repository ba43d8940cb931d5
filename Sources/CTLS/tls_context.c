/* What many TLS connections share: settings, certificates, trust and the keys of tickets.
 *
 * A server chooses its certificate in a callback in the middle of the handshake, after the client has named its host: the
 * names of all certificates stand in a sorted table. Certificates of different kinds of keys for the same name are all given
 * to OpenSSL, which takes the one that the client knows.
 *
 * Tickets are made with our own keys and not with the context's, so that every worker of a node opens those of the others.
 */
#include "tls.h"

#include <openssl/crypto.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Mozilla's "intermediate" list without finite-field Diffie-Hellman: forward secrecy and authenticated encryption only. */
#define CIPHERS_1_2                                                                                                         \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"  \
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define CIPHERS_1_3 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define GROUPS "X25519:P-256:P-384"
/* As long as the three newest keys of tickets live. */
#define SESSION_SECONDS (12 * 3600)

static const unsigned char http_1_1[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

void ctls_wipe(void *bytes, size_t length) { OPENSSL_cleanse(bytes, length); }

__attribute__((format(printf, 3, 4))) static void fault_set(struct ctls_fault *fault, enum ctls_part part,
                                                             const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fault->part = (uint32_t)part;
    vsnprintf(fault->text, sizeof fault->text, format, arguments);
    va_end(arguments);
    ERR_clear_error();
}

/* What the library says of its last failure. */
static const char *library_reason(void) {
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    return reason == NULL ? "no reason given" : reason;
}

/* ---- Names of certificates ------------------------------------------------------------------------------------------ */

static int name_order(const void *left, const void *right) {
    const struct certificate_name *first = left, *second = right;
    int order = strcmp(first->text, second->text);
    if (order != 0) return order;
    return first->pair < second->pair ? -1 : first->pair > second->pair;
}

static bool name_add(ctls_context *context, const unsigned char *text, int length, uint32_t pair) {
    if (length <= 0 || length > HOST_BYTES_MAX || memchr(text, 0, (size_t)length) != NULL) return true;
    struct certificate_name *names = realloc(context->names, (context->names_count + 1) * sizeof *names);
    if (names == NULL) return false;
    context->names = names;
    char *copy = strndup((const char *)text, (size_t)length);
    if (copy == NULL) return false;
    for (char *at = copy; *at != 0; at++) *at = (char)tolower((unsigned char)*at);
    names[context->names_count++] = (struct certificate_name){.text = copy, .pair = pair};
    return true;
}

/* Notes the names of a certificate: the alternative names, or, where there are none, the common name. */
static bool names_note(ctls_context *context, X509 *certificate, uint32_t pair) {
    bool fits = true, found = false;
    GENERAL_NAMES *alternatives = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    for (int index = 0; index < sk_GENERAL_NAME_num(alternatives); index++) {
        int kind = 0;
        ASN1_STRING *text = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(alternatives, index), &kind);
        if (kind != GEN_DNS) continue;
        found = true;
        fits = fits && name_add(context, ASN1_STRING_get0_data(text), ASN1_STRING_length(text), pair);
    }
    GENERAL_NAMES_free(alternatives);
    X509_NAME *subject = X509_get_subject_name(certificate);
    int place = found ? -1 : X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (place >= 0) {
        unsigned char *text = NULL;
        int length = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, place)));
        fits = fits && name_add(context, text, length, pair);
        OPENSSL_free(text);
    }
    if (context->names_count > 0) qsort(context->names, context->names_count, sizeof *context->names, name_order);
    return fits;
}

/* The first of the names that are equal to the text; `count`: how many there are. */
static const struct certificate_name *names_find(const ctls_context *context, const char *text, size_t *count) {
    size_t low = 0, high = context->names_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(context->names[middle].text, text) < 0) low = middle + 1;
        else high = middle;
    }
    size_t end = low;
    while (end < context->names_count && strcmp(context->names[end].text, text) == 0) end++;
    *count = end - low;
    return &context->names[low];
}

/* The client has said which host it wants, if any: gives OpenSSL the certificates for it. */
static int certificate_choose(SSL *ssl, void *argument) {
    const ctls_context *context = argument;
    const char *wanted = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    if (wanted == NULL) return 1;
    char host[HOST_BYTES_MAX + 2];
    size_t length = strnlen(wanted, HOST_BYTES_MAX + 1);
    if (length > 0 && wanted[length - 1] == '.') length--;
    if (length == 0 || length > HOST_BYTES_MAX) return 1;
    for (size_t index = 0; index < length; index++) host[index] = (char)tolower((unsigned char)wanted[index]);
    host[length] = 0;
    size_t count = 0;
    const struct certificate_name *names = names_find(context, host, &count);
    if (count == 0) {
        /* A wildcard stands for the whole first label (RFC 9525 section 6.3). */
        char *dot = strchr(host, '.');
        if (dot == NULL || dot == host) return 1;
        dot[-1] = '*';
        names = names_find(context, dot - 1, &count);
    }
    if (count == 0) return 1;
    SSL_certs_clear(ssl);
    /* The last one of a kind of key stays, so the first that was configured comes last. */
    for (size_t index = count; index > 0; index--) {
        const struct pair *pair = &context->pairs[names[index - 1].pair];
        if (SSL_use_cert_and_key(ssl, pair->certificate, pair->key, pair->chain, 1) != 1) return 0;
    }
    return 1;
}

/* ---- ALPN, tickets, kept sessions ----------------------------------------------------------------------------------- */

/* A client that names its protocols must name ours (RFC 7301 section 3.2). */
static int protocol_choose(SSL *ssl, const unsigned char **chosen, unsigned char *chosen_length, const unsigned char *offered,
                           unsigned offered_length, void *argument) {
    (void)ssl;
    (void)argument;
    unsigned char *out = NULL;
    if (SSL_select_next_proto(&out, chosen_length, http_1_1, sizeof http_1_1, offered, offered_length) !=
        OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *chosen = out;
    return SSL_TLSEXT_ERR_OK;
}

/* A key of tickets is a name (16 bytes), a key for AES-256 and one for HMAC-SHA-256 (32 bytes each). */
static int ticket_protect(SSL *ssl, unsigned char *name, unsigned char *vector, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                          int makes) {
    const ctls_context *context = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    size_t index = 0;
    if (makes) {
        if (context->ticket_keys_count == 0) return 0;
        memcpy(name, context->ticket_keys[0], 16);
        if (RAND_bytes(vector, EVP_CIPHER_get_iv_length(context->ticket_cipher)) != 1) return -1;
    } else {
        while (index < context->ticket_keys_count && memcmp(name, context->ticket_keys[index], 16) != 0) index++;
        if (index == context->ticket_keys_count) return 0;
    }
    unsigned char *key = (unsigned char *)(uintptr_t)context->ticket_keys[index];
    char digest[] = "SHA256";
    OSSL_PARAM parameters[] = {OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key + 48, 32),
                               OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0), OSSL_PARAM_construct_end()};
    if (EVP_CipherInit_ex(cipher, context->ticket_cipher, NULL, key + 16, vector, makes) != 1) return -1;
    if (EVP_MAC_CTX_set_params(mac, parameters) != 1) return -1;
    return index == 0 ? 1 : 2;
}

static int ticket_make(SSL *ssl, void *argument) {
    (void)ssl;
    (void)argument;
    return 1;
}

/* A ticket holds the certificate that its client once proved to have; one that is out of its time proves nothing more. In TLS 1.3 a
 * ticket is good for one connection (RFC 8446 appendix C.4), so whoever uses one gets the next. */
static SSL_TICKET_RETURN ticket_open(SSL *ssl, SSL_SESSION *opened, const unsigned char *name, size_t length,
                                     SSL_TICKET_STATUS status, void *argument) {
    (void)name;
    (void)length;
    (void)argument;
    if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) return SSL_TICKET_RETURN_IGNORE_RENEW;
    X509 *peer = SSL_SESSION_get0_peer(opened);
    if (peer != NULL && X509_cmp_current_time(X509_get0_notAfter(peer)) < 0) return SSL_TICKET_RETURN_IGNORE_RENEW;
    bool renews = status == SSL_TICKET_SUCCESS_RENEW || SSL_version(ssl) == TLS1_3_VERSION;
    return renews ? SSL_TICKET_RETURN_USE_RENEW : SSL_TICKET_RETURN_USE;
}

/* A client got a ticket: the newest one for each host is kept, for a few hosts. 1: the session is ours. */
static int session_keep(SSL *ssl, SSL_SESSION *kept) {
    const ctls_session *session = SSL_get_app_data(ssl);
    if (session == NULL || session->name == NULL) return 0;
    ctls_context *context = session->context;
    struct kept_session *place = NULL;
    for (size_t index = 0; index < KEPT_SESSIONS_MAX && place == NULL; index++) {
        struct kept_session *entry = &context->kept[index];
        if (entry->name != NULL && strcmp(entry->name, session->name) == 0) place = entry;
    }
    if (place == NULL) {
        place = &context->kept[context->kept_next];
        context->kept_next = (context->kept_next + 1) % KEPT_SESSIONS_MAX;
        char *name = strdup(session->name);
        if (name == NULL) return 0;
        free(place->name);
        place->name = name;
    }
    SSL_SESSION_free(place->session);
    place->session = kept;
    return 1;
}

SSL_SESSION *context_kept_session(const ctls_context *context, const char *name) {
    for (size_t index = 0; index < KEPT_SESSIONS_MAX; index++) {
        const struct kept_session *entry = &context->kept[index];
        if (entry->name != NULL && strcmp(entry->name, name) == 0) return entry->session;
    }
    return NULL;
}

/* ---- Life ----------------------------------------------------------------------------------------------------------- */

static bool settings_apply(SSL_CTX *library, bool is_server) {
    SSL_CTX_set_options(library, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
#ifdef SSL_OP_ENABLE_KTLS
    SSL_CTX_set_options(library, SSL_OP_ENABLE_KTLS);
#endif
    /* The chain is what was given with the certificate, and not what may be found among the clients' authorities. */
    SSL_CTX_set_mode(library, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS |
                                  SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_read_ahead(library, 1);
    SSL_CTX_set_timeout(library, SESSION_SECONDS);
    if (SSL_CTX_set_min_proto_version(library, TLS1_2_VERSION) != 1) return false;
    if (SSL_CTX_set_cipher_list(library, CIPHERS_1_2) != 1 || SSL_CTX_set_ciphersuites(library, CIPHERS_1_3) != 1) return false;
    if (SSL_CTX_set1_groups_list(library, GROUPS) != 1) return false;
    if (is_server) {
        /* Our order, which has the cheapest first, but for clients that put ChaCha20 first: they have no AES in hardware. */
        SSL_CTX_set_options(library, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
        SSL_CTX_set_session_cache_mode(library, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_num_tickets(library, 0);
        SSL_CTX_set_alpn_select_cb(library, protocol_choose, NULL);
        SSL_CTX_set_verify(library, SSL_VERIFY_NONE, NULL);
        if (SSL_CTX_set_tlsext_ticket_key_evp_cb(library, ticket_protect) != 1) return false;
        return SSL_CTX_set_session_ticket_cb(library, ticket_make, ticket_open, NULL) == 1;
    }
    SSL_CTX_clear_options(library, SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(library, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(library, session_keep);
    SSL_CTX_set_verify(library, SSL_VERIFY_PEER, NULL);
    return SSL_CTX_set_alpn_protos(library, http_1_1, sizeof http_1_1) == 0;
}

ctls_context *ctls_context_create(bool is_server, struct ctls_fault *fault) {
    ERR_clear_error();
    ctls_context *context = calloc(1, sizeof *context);
    if (context == NULL) {
        fault_set(fault, CTLS_PART_LIBRARY, "no memory");
        return NULL;
    }
    context->is_server = is_server;
    context->library = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
    context->ticket_cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    if (context->library == NULL || context->ticket_cipher == NULL || !settings_apply(context->library, is_server)) {
        fault_set(fault, CTLS_PART_LIBRARY, "OpenSSL refuses its settings: %s", library_reason());
        ctls_context_free(context);
        return NULL;
    }
    SSL_CTX_set_app_data(context->library, context);
    if (is_server) SSL_CTX_set_cert_cb(context->library, certificate_choose, context);
    return context;
}

static void pair_free(struct pair *pair) {
    X509_free(pair->certificate);
    EVP_PKEY_free(pair->key);
    sk_X509_pop_free(pair->chain, X509_free);
}

void ctls_context_free(ctls_context *context) {
    if (context == NULL) return;
    SSL_CTX_free(context->library);
    EVP_CIPHER_free(context->ticket_cipher);
    for (size_t index = 0; index < context->pairs_count; index++) pair_free(&context->pairs[index]);
    free(context->pairs);
    for (size_t index = 0; index < context->names_count; index++) free(context->names[index].text);
    free(context->names);
    for (size_t index = 0; index < KEPT_SESSIONS_MAX; index++) {
        SSL_SESSION_free(context->kept[index].session);
        free(context->kept[index].name);
    }
    OPENSSL_cleanse(context->ticket_keys, sizeof context->ticket_keys);
    free(context);
}

void ctls_tls_prepare(void) {
    struct ctls_fault fault;
    unsigned char byte;
    OPENSSL_init_ssl(0, NULL);
    (void)RAND_bytes(&byte, 1);
    (void)RAND_priv_bytes(&byte, 1);
    ctls_context_free(ctls_context_create(true, &fault));
    ctls_context_free(ctls_context_create(false, &fault));
}

/* ---- Certificates and keys ------------------------------------------------------------------------------------------ */

/* Nobody is there to be asked for a passphrase. */
static int no_passphrase(char *buffer, int size, int writes, void *asked) {
    (void)buffer;
    (void)size;
    (void)writes;
    *(bool *)asked = true;
    return -1;
}

static BIO *source_of(const uint8_t *bytes, size_t length) {
    return BIO_new_mem_buf(length == 0 ? (const void *)"" : bytes, (int)length);
}

static bool ended_well(void) {
    unsigned long code = ERR_peek_last_error();
    bool is_end = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
    if (is_end) ERR_clear_error();
    return is_end;
}

static bool certificates_read(struct pair *pair, const uint8_t *bytes, size_t length, struct ctls_fault *fault) {
    BIO *source = source_of(bytes, length);
    pair->chain = sk_X509_new_null();
    int count = 0;
    X509 *read = NULL;
    bool asked = false, fits = source != NULL && pair->chain != NULL;
    while (fits && (read = PEM_read_bio_X509(source, NULL, no_passphrase, &asked)) != NULL) {
        count++;
        if (count == 1) pair->certificate = read;
        else if (sk_X509_push(pair->chain, read) == 0) {
            X509_free(read);
            fits = false;
        }
    }
    BIO_free(source);
    if (!fits) {
        fault_set(fault, CTLS_PART_LIBRARY, "no memory");
        return false;
    }
    if (!ended_well()) {
        fault_set(fault, CTLS_PART_CERTIFICATE, "certificate %d in it can't be read: %s", count + 1, library_reason());
        return false;
    }
    if (count == 0) fault_set(fault, CTLS_PART_CERTIFICATE, "no certificate in it");
    return count > 0;
}

static bool key_read(struct pair *pair, const uint8_t *bytes, size_t length, struct ctls_fault *fault) {
    BIO *source = source_of(bytes, length);
    bool asked = false;
    pair->key = source == NULL ? NULL : PEM_read_bio_PrivateKey(source, NULL, no_passphrase, &asked);
    BIO_free(source);
    if (pair->key != NULL) {
        ERR_clear_error();
        return true;
    }
    if (asked) fault_set(fault, CTLS_PART_KEY, "the key has a passphrase; only keys without one can be used");
    else if (memmem(bytes, length, "PRIVATE KEY-----", 16) == NULL) fault_set(fault, CTLS_PART_KEY, "no private key in it");
    else fault_set(fault, CTLS_PART_KEY, "the private key can't be read: %s", library_reason());
    return false;
}

bool ctls_context_add(ctls_context *context, const uint8_t *certificate, size_t certificate_length, const uint8_t *key,
                      size_t key_length, struct ctls_fault *fault) {
    ERR_clear_error();
    struct pair pair = {0};
    struct pair *pairs = NULL;
    if (!certificates_read(&pair, certificate, certificate_length, fault) || !key_read(&pair, key, key_length, fault)) goto refused;
    if (X509_check_private_key(pair.certificate, pair.key) != 1) {
        fault_set(fault, CTLS_PART_KEY, "the key does not fit the certificate");
        goto refused;
    }
    bool is_first = context->pairs_count == 0;
    SSL_CTX *trial = is_first ? context->library : SSL_CTX_new(TLS_server_method());
    bool fits = trial != NULL && SSL_CTX_use_cert_and_key(trial, pair.certificate, pair.key, pair.chain, 1) == 1;
    if (!fits) fault_set(fault, CTLS_PART_CERTIFICATE, "it can't be used: %s", library_reason());
    if (!is_first) SSL_CTX_free(trial);
    if (!fits) goto refused;
    pairs = realloc(context->pairs, (context->pairs_count + 1) * sizeof *pairs);
    if (pairs == NULL) {
        fault_set(fault, CTLS_PART_LIBRARY, "no memory");
        goto refused;
    }
    context->pairs = pairs;
    pairs[context->pairs_count++] = pair;
    if (names_note(context, pair.certificate, (uint32_t)(context->pairs_count - 1))) return true;
    fault_set(fault, CTLS_PART_LIBRARY, "no memory");
    return false;

refused:
    pair_free(&pair);
    return false;
}

/* ---- Trust ---------------------------------------------------------------------------------------------------------- */

static bool authorities_read(ctls_context *context, BIO *source, X509_STORE *store, STACK_OF(X509_NAME) *names, int *count) {
    X509 *authority = NULL;
    bool asked = false, fits = true;
    while (fits && (authority = PEM_read_bio_X509(source, NULL, no_passphrase, &asked)) != NULL) {
        (*count)++;
        fits = X509_STORE_add_cert(store, authority) == 1;
        if (fits && context->is_server) {
            X509_NAME *name = X509_NAME_dup(X509_get_subject_name(authority));
            fits = name != NULL && sk_X509_NAME_push(names, name) > 0;
            if (!fits) X509_NAME_free(name);
        }
        X509_free(authority);
    }
    return fits;
}

bool ctls_context_trust(ctls_context *context, const uint8_t *bytes, size_t length, struct ctls_fault *fault) {
    ERR_clear_error();
    BIO *source = source_of(bytes, length);
    X509_STORE *store = X509_STORE_new();
    STACK_OF(X509_NAME) *names = sk_X509_NAME_new_null();
    int count = 0;
    bool fits = source != NULL && store != NULL && names != NULL && authorities_read(context, source, store, names, &count);
    if (!fits) {
        fault_set(fault, CTLS_PART_AUTHORITIES, "certificate %d in it can't be used: %s", count, library_reason());
    } else if (!ended_well()) {
        fault_set(fault, CTLS_PART_AUTHORITIES, "certificate %d in it can't be read: %s", count + 1, library_reason());
        fits = false;
    } else if (count == 0) {
        fault_set(fault, CTLS_PART_AUTHORITIES, "no certificate in it");
        fits = false;
    }
    BIO_free(source);
    if (!fits) {
        X509_STORE_free(store);
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return false;
    }
    /* Whoever is named here is trusted, be it a root or not. */
    X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
    SSL_CTX_set_cert_store(context->library, store);
    if (context->is_server) {
        SSL_CTX_set_client_CA_list(context->library, names);
        SSL_CTX_set_verify(context->library, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    } else {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
    }
    return true;
}

const char *ctls_system_bundle(size_t index) {
    static const char *const bundles[] = {
        "/etc/ssl/certs/ca-certificates.crt",                /* Debian, Alpine, Arch, OpenWrt */
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* Fedora, Red Hat */
        "/etc/pki/tls/certs/ca-bundle.crt",                  /* the same, older */
        "/etc/ssl/ca-bundle.pem",                            /* SUSE */
        "/etc/ssl/cert.pem",                                 /* BSD's habit, and Alpine's */
    };
    return index < sizeof bundles / sizeof bundles[0] ? bundles[index] : NULL;
}

/* An OpenSSL that is linked in, and not the system's own, looks where the system that it was built on has its certificates. */
static bool has_system_paths(void) {
    return getenv(X509_get_default_cert_file_env()) != NULL || getenv(X509_get_default_cert_dir_env()) != NULL ||
           access(X509_get_default_cert_file(), R_OK) == 0 || access(X509_get_default_cert_dir(), R_OK) == 0;
}

bool ctls_context_trust_system(ctls_context *context, struct ctls_fault *fault) {
    ERR_clear_error();
    if (!has_system_paths()) {
        for (size_t index = 0; ctls_system_bundle(index) != NULL; index++) {
            if (SSL_CTX_load_verify_file(context->library, ctls_system_bundle(index)) == 1) return true;
        }
        ERR_clear_error();
    }
    if (SSL_CTX_set_default_verify_paths(context->library) == 1) return true;
    fault_set(fault, CTLS_PART_AUTHORITIES, "the system's certificates can't be read: %s", library_reason());
    return false;
}

void ctls_context_trust_everyone(ctls_context *context) {
    context->trusts_everyone = true;
    SSL_CTX_set_verify(context->library, SSL_VERIFY_NONE, NULL);
}

bool ctls_context_limit_to_1_2(ctls_context *context) {
    return SSL_CTX_set_max_proto_version(context->library, TLS1_2_VERSION) == 1;
}

void ctls_context_identity(ctls_context *context, const uint8_t *identity) {
    (void)SSL_CTX_set_session_id_context(context->library, identity, CTLS_IDENTITY_BYTES);
}

void ctls_context_ticket_keys(ctls_context *context, const uint8_t *keys, size_t count) {
    if (count > CTLS_TICKET_KEYS_MAX) count = CTLS_TICKET_KEYS_MAX;
    OPENSSL_cleanse(context->ticket_keys, sizeof context->ticket_keys);
    if (count > 0) memcpy(context->ticket_keys, keys, count * CTLS_TICKET_KEY_BYTES);
    context->ticket_keys_count = count;
    SSL_CTX_set_num_tickets(context->library, count > 0 ? TICKETS_EACH : 0);
    if (count > 0) SSL_CTX_clear_options(context->library, SSL_OP_NO_TICKET);
    else SSL_CTX_set_options(context->library, SSL_OP_NO_TICKET);
}
