/* What certificates say about themselves, for people who look for a fault. Nothing is decided by it. */
#include "tls.h"

#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* OpenSSL escapes what is no printable ASCII. */
static void name_text(const X509_NAME *name, char *text, size_t size) {
    BIO *out = BIO_new(BIO_s_mem());
    text[0] = 0;
    if (out == NULL) return;
    if (name != NULL && X509_NAME_print_ex(out, name, 0, XN_FLAG_ONELINE) >= 0) {
        int length = BIO_read(out, text, (int)size - 1);
        text[length > 0 ? length : 0] = 0;
    }
    BIO_free(out);
}

static void append(char *text, size_t size, const char *more, size_t length) {
    size_t used = strlen(text);
    const char *comma = used == 0 ? "" : ", ";
    if (used + strlen(comma) + length + 1 > size) return;
    memcpy(text + used, comma, strlen(comma));
    used += strlen(comma);
    for (size_t index = 0; index < length; index++) {
        text[used + index] = more[index] > 0x20 && more[index] < 0x7f ? more[index] : '?';
    }
    text[used + length] = 0;
}

static void alternative_names(X509 *certificate, char *text, size_t size) {
    text[0] = 0;
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    for (int index = 0; index < sk_GENERAL_NAME_num(names); index++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, index);
        char address[INET6_ADDRSTRLEN];
        if (name->type == GEN_DNS) {
            append(text, size, (const char *)ASN1_STRING_get0_data(name->d.dNSName), (size_t)ASN1_STRING_length(name->d.dNSName));
        } else if (name->type == GEN_IPADD) {
            int length = ASN1_STRING_length(name->d.iPAddress);
            int family = length == 4 ? AF_INET : AF_INET6;
            if (length != 4 && length != 16) continue;
            if (inet_ntop(family, ASN1_STRING_get0_data(name->d.iPAddress), address, sizeof address) == NULL) continue;
            append(text, size, address, strlen(address));
        }
    }
    GENERAL_NAMES_free(names);
}

static int64_t seconds_of(const ASN1_TIME *time) {
    struct tm parts;
    return time != NULL && ASN1_TIME_to_tm(time, &parts) == 1 ? (int64_t)timegm(&parts) : 0;
}

static void describe(X509 *certificate, struct ctls_certificate *out) {
    name_text(X509_get_subject_name(certificate), out->subject, sizeof out->subject);
    name_text(X509_get_issuer_name(certificate), out->issuer, sizeof out->issuer);
    alternative_names(certificate, out->names, sizeof out->names);
    out->not_before = seconds_of(X509_get0_notBefore(certificate));
    out->not_after = seconds_of(X509_get0_notAfter(certificate));
}

size_t ctls_certificates_read(const uint8_t *pem, size_t length, struct ctls_certificate *list, size_t max) {
    BIO *source = BIO_new_mem_buf(length == 0 ? (const void *)"" : pem, (int)length);
    size_t count = 0;
    X509 *certificate = NULL;
    while (source != NULL && count < max && (certificate = PEM_read_bio_X509(source, NULL, NULL, NULL)) != NULL) {
        describe(certificate, &list[count++]);
        X509_free(certificate);
    }
    BIO_free(source);
    ERR_clear_error();
    return count;
}

size_t ctls_session_chain(const ctls_session *session, struct ctls_certificate *list, size_t max) {
    STACK_OF(X509) *chain = SSL_get_peer_cert_chain(session->ssl);
    size_t count = 0;
    for (int index = 0; index < sk_X509_num(chain) && count < max; index++) {
        describe(sk_X509_value(chain, index), &list[count++]);
    }
    ERR_clear_error();
    return count;
}
