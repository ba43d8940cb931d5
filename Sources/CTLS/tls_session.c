/* One TLS connection: handshake, reading, writing and the end, each as far as the socket goes at the moment. */
#include "tls.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* OpenSSL counts alerts among its reasons from here on. */
#define ALERT_REASONS SSL_AD_REASON_OFFSET
#define RECORD_BYTES_MAX 16384

static bool is_address(const char *name) {
    unsigned char bytes[16];
    return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

/* Whom the server must prove to be. */
static bool name_expect(ctls_session *session, const char *name) {
    X509_VERIFY_PARAM *parameters = SSL_get0_param(session->ssl);
    X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (is_address(name)) {
        return session->context->trusts_everyone || X509_VERIFY_PARAM_set1_ip_asc(parameters, name) == 1;
    }
    if (SSL_set_tlsext_host_name(session->ssl, name) != 1) return false;
    return session->context->trusts_everyone || X509_VERIFY_PARAM_set1_host(parameters, name, 0) == 1;
}

static bool client_prepare(ctls_session *session, const char *name) {
    SSL_set_connect_state(session->ssl);
    if (name == NULL || *name == 0) return true;
    session->name = strdup(name);
    if (session->name == NULL) return false;
    size_t length = strlen(name);
    if (session->name[length - 1] == '.') session->name[length - 1] = 0;
    if (!name_expect(session, session->name)) return false;
    SSL_SESSION *kept = context_kept_session(session->context, session->name);
    /* Without it there is a full handshake. */
    if (kept != NULL && SSL_SESSION_is_resumable(kept)) (void)SSL_set_session(session->ssl, kept);
    return true;
}

/* ---- Bytes that came before ----------------------------------------------------------------------------------------- */

struct early {
    size_t length, offset;
    uint8_t bytes[];
};

static int early_read(BIO *bio, char *out, size_t size, size_t *got) {
    struct early *early = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (early->offset < early->length) {
        size_t count = early->length - early->offset;
        if (count > size) count = size;
        memcpy(out, early->bytes + early->offset, count);
        early->offset += count;
        *got = count;
        return 1;
    }
    int returned = BIO_read_ex(BIO_next(bio), out, size, got);
    BIO_copy_next_retry(bio);
    return returned;
}

static long early_control(BIO *bio, int command, long number, void *pointer) {
    return BIO_next(bio) == NULL ? 0 : BIO_ctrl(BIO_next(bio), command, number, pointer);
}

static int early_destroy(BIO *bio) {
    free(BIO_get_data(bio));
    return 1;
}

/* Lets the session read the bytes, and the socket behind them. */
static bool early_put(SSL *ssl, const uint8_t *bytes, size_t length) {
    static BIO_METHOD *method;
    if (method == NULL) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_FILTER, "early bytes");
        if (method == NULL) return false;
        BIO_meth_set_read_ex(method, early_read);
        BIO_meth_set_ctrl(method, early_control);
        BIO_meth_set_destroy(method, early_destroy);
    }
    struct early *early = malloc(sizeof *early + length);
    BIO *bio = early == NULL ? NULL : BIO_new(method);
    if (bio == NULL) {
        free(early);
        return false;
    }
    *early = (struct early){.length = length};
    memcpy(early->bytes, bytes, length);
    BIO_set_data(bio, early);
    BIO_set_init(bio, 1);
    BIO *socket = SSL_get_rbio(ssl);
    BIO_up_ref(socket);
    SSL_set0_rbio(ssl, BIO_push(bio, socket));
    return true;
}

ctls_session *ctls_session_create(ctls_context *context, int descriptor, const char *name, const uint8_t *early,
                                  size_t early_length) {
    ERR_clear_error();
    ctls_session *session = calloc(1, sizeof *session);
    if (session == NULL) return NULL;
    session->context = context;
    session->ssl = SSL_new(context->library);
    bool fits = session->ssl != NULL && SSL_set_fd(session->ssl, descriptor) == 1;
    if (fits && early_length > 0) fits = early_put(session->ssl, early, early_length);
    if (fits) {
        SSL_set_app_data(session->ssl, session);
        if (context->is_server) SSL_set_accept_state(session->ssl);
        else fits = client_prepare(session, name);
    }
    ERR_clear_error();
    if (fits) return session;
    ctls_session_free(session);
    return NULL;
}

void ctls_session_free(ctls_session *session) {
    if (session == NULL) return;
    /* What was agreed upon may be resumed, however the connection ended, unless it broke. */
    if (session->ssl != NULL && session->text == NULL) SSL_set_shutdown(session->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(session->ssl);
    ERR_clear_error();
    free(session->name);
    free(session->text);
    free(session);
}

/* ---- What went wrong ------------------------------------------------------------------------------------------------ */

__attribute__((format(printf, 2, 3))) static void explain(ctls_session *session, const char *format, ...) {
    char text[CTLS_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    free(session->text);
    session->text = strdup(text);
}

/* What this machine takes for the time, behind a failure that hangs on it: a device without a battery for its clock may think that
 * it is 1970 until it has heard of NTP. */
static void describe_clock(char *text, size_t size) {
    time_t now = time(NULL);
    struct tm parts;
    if (gmtime_r(&now, &parts) == NULL) return;
    char when[32];
    if (strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0) return;
    snprintf(text, size, " (this machine's clock says %s)", when);
}

static void explain_verification(ctls_session *session) {
    long result = SSL_get_verify_result(session->ssl);
    const char *whose = session->context->is_server ? "client" : "server";
    if (result == X509_V_ERR_HOSTNAME_MISMATCH || result == X509_V_ERR_IP_ADDRESS_MISMATCH) {
        explain(session, "the server's certificate is not for %s", session->name == NULL ? "it" : session->name);
    } else {
        char clock[64] = "";
        if (result == X509_V_ERR_CERT_NOT_YET_VALID || result == X509_V_ERR_CERT_HAS_EXPIRED) describe_clock(clock, sizeof clock);
        explain(session, "the %s's certificate: %s%s", whose, X509_verify_cert_error_string(result), clock);
    }
}

/* What the peer's alert says; OpenSSL 3.0 has no words for those that TLS 1.3 and ALPN brought. */
static const char *alert_text(int alert) {
    switch (alert) {
    case TLS13_AD_CERTIFICATE_REQUIRED: return "certificate required";
    case TLS13_AD_MISSING_EXTENSION: return "missing extension";
    case TLS1_AD_NO_APPLICATION_PROTOCOL: return "no application protocol";
    default: return SSL_alert_desc_string_long(alert);
    }
}

static int library_failed(ctls_session *session) {
    unsigned long code = ERR_peek_error();
    int reason = ERR_GET_REASON(code);
    const char *text = ERR_reason_error_string(code);
    int result = CTLS_FAILED;
    if (ERR_GET_LIB(code) != ERR_LIB_SSL) {
        explain(session, "TLS: %s", text == NULL ? "OpenSSL gives no reason" : text);
    } else if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        explain(session, session->is_established ? "the connection ended without a close_notify"
                                                             : "the connection ended in the TLS handshake");
        result = CTLS_TRUNCATED;
    } else if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        explain_verification(session);
    } else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
        explain(session, "the client sent no certificate");
    } else if (reason == SSL_R_HTTP_REQUEST || reason == SSL_R_HTTPS_PROXY_REQUEST) {
        explain(session, "the client speaks HTTP without TLS");
        result = CTLS_PLAIN_HTTP;
    } else if (reason == SSL_R_WRONG_VERSION_NUMBER && !session->context->is_server) {
        explain(session, "the server does not speak TLS");
    } else if (reason >= ALERT_REASONS) {
        explain(session, "the %s refused the TLS handshake or broke it off: %s",
                session->context->is_server ? "client" : "server", alert_text(reason - ALERT_REASONS));
    } else {
        explain(session, "TLS: %s", text == NULL ? "OpenSSL gives no reason" : text);
    }
    ERR_clear_error();
    return result;
}

/* What a call that did not succeed came to. `error` is errno behind the call. */
static int outcome(ctls_session *session, int returned, int error) {
    switch (SSL_get_error(session->ssl, returned)) {
    case SSL_ERROR_WANT_READ: return CTLS_WANTS_READ;
    case SSL_ERROR_WANT_WRITE: return CTLS_WANTS_WRITE;
    case SSL_ERROR_ZERO_RETURN: return CTLS_ENDED;
    case SSL_ERROR_SSL: return library_failed(session);
    case SSL_ERROR_SYSCALL:
        ERR_clear_error();
        if (error == ECONNRESET || error == EPIPE) {
            explain(session, "the connection was reset");
            return CTLS_RESET;
        }
        explain(session, "TLS: %s", error == 0 ? "the socket broke" : strerror(error));
        return CTLS_FAILED;
    default: explain(session, "TLS: an outcome that nobody asked for"); return CTLS_FAILED;
    }
}

/* ---- The connection ------------------------------------------------------------------------------------------------- */

int ctls_session_handshake(ctls_session *session) {
    ERR_clear_error();
    errno = 0;
    int returned = SSL_do_handshake(session->ssl);
    if (returned == 1) session->is_established = true;
    return returned == 1 ? 0 : outcome(session, returned, errno);
}

long ctls_session_read(ctls_session *session, uint8_t *bytes, size_t length) {
    size_t got = 0;
    ERR_clear_error();
    errno = 0;
    int returned = SSL_read_ex(session->ssl, bytes, length, &got);
    return returned == 1 ? (long)got : outcome(session, returned, errno);
}

long ctls_session_write(ctls_session *session, const uint8_t *bytes, size_t length) {
    size_t taken = 0;
    ERR_clear_error();
    errno = 0;
    int returned = SSL_write_ex(session->ssl, bytes, length < RECORD_BYTES_MAX ? length : RECORD_BYTES_MAX, &taken);
    return returned == 1 ? (long)taken : outcome(session, returned, errno);
}

int ctls_session_finish(ctls_session *session) {
    /* Called again after the alert is out, SSL_shutdown would read, and drop what it reads. */
    if ((SSL_get_shutdown(session->ssl) & SSL_SENT_SHUTDOWN) != 0 && !session->finish_waits) return 0;
    ERR_clear_error();
    errno = 0;
    int returned = SSL_shutdown(session->ssl);
    int result = returned >= 0 ? 0 : outcome(session, returned, errno);
    session->finish_waits = result == CTLS_WANTS_WRITE;
    return result;
}

bool ctls_session_has_waiting(const ctls_session *session) { return SSL_has_pending(session->ssl) == 1; }

const char *ctls_session_text(const ctls_session *session) { return session->text == NULL ? "" : session->text; }

const char *ctls_session_version(const ctls_session *session) { return SSL_get_version(session->ssl); }

const char *ctls_session_cipher(const ctls_session *session) { return SSL_get_cipher_name(session->ssl); }

void ctls_session_protocol(const ctls_session *session, const uint8_t **name, unsigned *length) {
    SSL_get0_alpn_selected(session->ssl, name, length);
}

const char *ctls_session_host(const ctls_session *session) {
    return SSL_get_servername(session->ssl, TLSEXT_NAMETYPE_host_name);
}

bool ctls_session_is_resumed(const ctls_session *session) { return SSL_session_reused(session->ssl) == 1; }

bool ctls_session_sends_in_kernel(const ctls_session *session) {
    BIO *target = SSL_get_wbio(session->ssl);
    return target != NULL && BIO_get_ktls_send(target);
}
