/* CTLS: sessions over a pair of sockets with a certificate that is made here, their resumption and their refusals; keys and
 * signatures, by the examples of the standards and by keys that are made here.
 */
#include "selftest.h"

#include "ciocore.h"
#include "ctls.h"
#include "ctls_tls.h"
#include "ctls_tokens.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BODY_BYTES (1u << 20)

/* ---- A certificate -------------------------------------------------------------------------------------------------- */

struct pem {
    uint8_t *certificate, *key;
    size_t certificate_length, key_length;
};

static uint8_t *taken(BIO *bio, size_t *length) {
    char *bytes;
    long size = BIO_get_mem_data(bio, &bytes);
    CHECK(size > 0);
    uint8_t *copy = malloc((size_t)size);
    CHECK(copy != NULL);
    memcpy(copy, bytes, (size_t)size);
    *length = (size_t)size;
    BIO_free(bio);
    return copy;
}

/* One for arm.test, signed by its own key. */
static struct pem certificate_make(void) {
    struct pem made;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    CHECK(key != NULL && certificate != NULL && X509_set_version(certificate, 2) == 1);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_NAME *name = X509_NAME_new();
    CHECK(name != NULL && X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"selftest", -1, -1, 0) == 1);
    CHECK(X509_set_subject_name(certificate, name) == 1 && X509_set_issuer_name(certificate, name) == 1);
    X509_NAME_free(name);
    CHECK(X509_set_pubkey(certificate, key) == 1);
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, certificate, certificate, NULL, NULL, 0);
    X509_EXTENSION *names = X509V3_EXT_nconf_nid(NULL, &context, NID_subject_alt_name, "DNS:arm.test,IP:127.0.0.1");
    CHECK(names != NULL && X509_add_ext(certificate, names, -1) == 1);
    X509_EXTENSION_free(names);
    CHECK(X509_sign(certificate, key, EVP_sha256()) > 0);
    BIO *bio = BIO_new(BIO_s_mem());
    CHECK(PEM_write_bio_X509(bio, certificate) == 1);
    made.certificate = taken(bio, &made.certificate_length);
    bio = BIO_new(BIO_s_mem());
    CHECK(PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1);
    made.key = taken(bio, &made.key_length);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return made;
}

/* ---- Sessions ------------------------------------------------------------------------------------------------------- */

struct connection {
    ctls_session *client, *server;
    int pair[2];
};

static struct connection connection_make(ctls_context *client, ctls_context *server, const char *name) {
    struct connection made;
    CHECK(cio_socket_pair(SOCK_STREAM, made.pair) == 0);
    cio_socket_nonblocking(made.pair[0]);
    cio_socket_nonblocking(made.pair[1]);
    made.client = ctls_session_create(client, made.pair[0], name, NULL, 0);
    made.server = ctls_session_create(server, made.pair[1], NULL, NULL, 0);
    CHECK(made.client != NULL && made.server != NULL);
    return made;
}

static void connection_free(struct connection *connection) {
    ctls_session_free(connection->client);
    ctls_session_free(connection->server);
    close(connection->pair[0]);
    close(connection->pair[1]);
}

static bool waits(int result) { return result == CTLS_WANTS_READ || result == CTLS_WANTS_WRITE; }

/* The handshake of both sides, in turns: 0, or what the client's ended with. */
static int handshake(struct connection *connection) {
    int client = CTLS_WANTS_READ, server = CTLS_WANTS_READ;
    for (int round = 0; round < 20 && (waits(client) || waits(server)); round++) {
        if (waits(client)) client = ctls_session_handshake(connection->client);
        if (waits(server)) server = ctls_session_handshake(connection->server);
    }
    CHECK(!waits(client) || !waits(server));
    return client;
}

/* A body from one to the other, in records of whatever size fits. */
static void body_carry(ctls_session *from, ctls_session *to) {
    static uint8_t sent[BODY_BYTES], got[BODY_BYTES];
    CHECK(cio_random(sent, sizeof sent) == 0);
    size_t written = 0, received = 0;
    while (received < sizeof got) {
        if (written < sizeof sent) {
            long count = ctls_session_write(from, sent + written, sizeof sent - written);
            CHECK(count > 0 || waits((int)count));
            if (count > 0) written += (size_t)count;
        }
        long count = ctls_session_read(to, got + received, sizeof got - received);
        CHECK(count > 0 || waits((int)count));
        if (count > 0) received += (size_t)count;
    }
    CHECK(memcmp(sent, got, sizeof got) == 0);
}

static void test_session(ctls_context *client, ctls_context *server, const char *version, bool resumes) {
    struct connection connection = connection_make(client, server, "arm.test");
    CHECK(handshake(&connection) == 0);
    CHECK(strcmp(ctls_session_version(connection.client), version) == 0 && strcmp(ctls_session_version(connection.server), version) == 0);
    if (!resumes) CHECK(strcmp(ctls_session_host(connection.server), "arm.test") == 0); /* a resumed one need not know it */
    const uint8_t *protocol;
    unsigned length;
    ctls_session_protocol(connection.client, &protocol, &length);
    CHECK(length == 8 && memcmp(protocol, "http/1.1", 8) == 0);
    CHECK(ctls_session_is_resumed(connection.client) == resumes && ctls_session_is_resumed(connection.server) == resumes);
    body_carry(connection.server, connection.client); /* the tickets come before it */
    body_carry(connection.client, connection.server);
    uint8_t byte;
    CHECK(ctls_session_finish(connection.client) == 0 && ctls_session_read(connection.server, &byte, 1) == CTLS_ENDED);
    CHECK(ctls_session_finish(connection.server) == 0 && ctls_session_read(connection.client, &byte, 1) == CTLS_ENDED);
    connection_free(&connection);
}

static void test_refusal(ctls_context *client, ctls_context *server) {
    struct connection connection = connection_make(client, server, "other.test");
    CHECK(handshake(&connection) == CTLS_FAILED);
    CHECK(strstr(ctls_session_text(connection.client), "not for other.test") != NULL);
    connection_free(&connection);
}

static ctls_context *context_make(bool is_server, const struct pem *pem) {
    struct ctls_fault fault;
    ctls_context *made = ctls_context_create(is_server, &fault);
    CHECK(made != NULL);
    if (is_server) CHECK(ctls_context_add(made, pem->certificate, pem->certificate_length, pem->key, pem->key_length, &fault));
    else CHECK(ctls_context_trust(made, pem->certificate, pem->certificate_length, &fault));
    return made;
}

void test_tls(void) {
    ctls_tls_prepare();
    struct pem pem = certificate_make();
    struct ctls_certificate facts[2];
    CHECK(ctls_certificates_read(pem.certificate, pem.certificate_length, facts, 2) == 1);
    CHECK(strcmp(facts[0].subject, "CN = selftest") == 0 && strcmp(facts[0].names, "arm.test, 127.0.0.1") == 0);
    CHECK(facts[0].not_after - facts[0].not_before == 3660);

    uint8_t keys[CTLS_TICKET_KEY_BYTES], identity[CTLS_IDENTITY_BYTES];
    CHECK(cio_random(keys, sizeof keys) == 0 && cio_random(identity, sizeof identity) == 0);
    ctls_context *server = context_make(true, &pem), *client = context_make(false, &pem);
    ctls_context_identity(server, identity);
    ctls_context_ticket_keys(server, keys, 1);
    test_session(client, server, "TLSv1.3", false);
    test_session(client, server, "TLSv1.3", true);
    test_refusal(client, server);
    ctls_context *older = context_make(false, &pem);
    CHECK(ctls_context_limit_to_1_2(older));
    test_session(older, server, "TLSv1.2", false);
    test_session(older, server, "TLSv1.2", true);

    ctls_context *stranger = context_make(false, &pem);
    struct pem other = certificate_make();
    struct ctls_fault fault;
    CHECK(ctls_context_trust(stranger, other.certificate, other.certificate_length, &fault));
    struct connection connection = connection_make(stranger, server, "arm.test");
    CHECK(handshake(&connection) == CTLS_FAILED);
    connection_free(&connection);
    ctls_context_free(stranger);
    ctls_context_free(older);
    ctls_context_free(client);
    ctls_context_free(server);
    free(pem.certificate);
    free(pem.key);
    free(other.certificate);
    free(other.key);
    printf("holds: TLS sessions (%s)\n", OpenSSL_version(OPENSSL_VERSION));
}

/* ---- Keys and signatures --------------------------------------------------------------------------------------------- */

static size_t base64url(const char *text, uint8_t *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint32_t bits = 0;
    int held = 0;
    size_t length = 0;
    for (; *text != 0; text++) {
        const char *digit = strchr(digits, *text);
        CHECK(digit != NULL);
        bits = bits << 6 | (uint32_t)(digit - digits);
        held += 6;
        if (held < 8) continue;
        held -= 8;
        out[length++] = (uint8_t)(bits >> held);
    }
    return length;
}

/* Holds as it is, and no longer when a bit of the signature or of the message is another. */
static void signature_check(ctls_key *key, int method, int bits, const uint8_t *message, size_t length, uint8_t *signature, size_t size) {
    CHECK(ctls_signature_valid(key, method, bits, message, length, signature, size));
    signature[size / 3] ^= 1;
    CHECK(!ctls_signature_valid(key, method, bits, message, length, signature, size));
    signature[size / 3] ^= 1;
    CHECK(!ctls_signature_valid(key, method, bits, message, length - 1, signature, size));
    CHECK(!ctls_signature_valid(key, method, bits, message, length, signature, size - 1));
    CHECK(ctls_signature_valid(key, method, bits, message, length, signature, size));
}

/* RFC 7515 appendix A.3, RFC 8037 appendix A.4. */
static void test_examples(void) {
    static const char es256[] = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9p"
                                "c19yb290Ijp0cnVlfQ";
    static const char eddsa[] = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    uint8_t x[64], y[64], signature[128];
    ctls_key *key;
    size_t x_length = base64url("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", x);
    size_t y_length = base64url("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", y);
    CHECK(ctls_key_from_point(CTLS_KEY_P256, x, x_length, y, y_length, &key) == CTLS_KEY_P256);
    size_t size = base64url("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q", signature);
    signature_check(key, CTLS_ECDSA, 256, (const uint8_t *)es256, sizeof es256 - 1, signature, size);
    CHECK(!ctls_signature_valid(key, CTLS_EDDSA, 0, (const uint8_t *)es256, sizeof es256 - 1, signature, size));
    ctls_key_free(key);
    y[0] ^= 1;
    CHECK(ctls_key_from_point(CTLS_KEY_P256, x, x_length, y, y_length, &key) < 0 && key == NULL);

    x_length = base64url("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", x);
    CHECK(ctls_key_from_ed25519(x, x_length, &key) == CTLS_KEY_ED25519);
    size = base64url("hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg", signature);
    signature_check(key, CTLS_EDDSA, 0, (const uint8_t *)eddsa, sizeof eddsa - 1, signature, size);
    ctls_key_free(key);
}

/* A key of RSA that is made here, with both of its signatures. */
static void test_rsa(int bits, const EVP_MD *digest) {
    static const uint8_t message[] = "what a token says";
    EVP_PKEY *pair = EVP_RSA_gen(2048);
    BIO *bio = BIO_new(BIO_s_mem());
    CHECK(pair != NULL && PEM_write_bio_PUBKEY(bio, pair) == 1);
    size_t length;
    uint8_t *pem = taken(bio, &length);
    ctls_key *key;
    CHECK(ctls_key_from_pem(pem, length, &key) == CTLS_KEY_RSA);
    free(pem);
    for (int method = CTLS_RSA_PKCS1; method <= CTLS_RSA_PSS; method++) {
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        EVP_PKEY_CTX *options = NULL;
        uint8_t signature[256];
        size_t size = sizeof signature;
        CHECK(EVP_DigestSignInit(context, &options, digest, NULL, pair) == 1);
        if (method == CTLS_RSA_PSS) {
            CHECK(EVP_PKEY_CTX_set_rsa_padding(options, RSA_PKCS1_PSS_PADDING) == 1);
            CHECK(EVP_PKEY_CTX_set_rsa_pss_saltlen(options, RSA_PSS_SALTLEN_DIGEST) == 1);
        }
        CHECK(EVP_DigestSign(context, signature, &size, message, sizeof message) == 1);
        signature_check(key, method, bits, message, sizeof message, signature, size);
        CHECK(!ctls_signature_valid(key, 3 - method, bits, message, sizeof message, signature, size));
        EVP_MD_CTX_free(context);
    }
    ctls_key_free(key);
    EVP_PKEY_free(pair);
}

/* RFC 4231, test cases 2 (all three digests) and 6 (a key that is longer than a block). */
static void test_codes(void) {
    static const uint8_t message[] = "what do ya want for nothing?";
    static const uint8_t long_message[] = "Test Using Larger Than Block-Size Key - Hash Key First";
    static const uint8_t sha256[32] = {0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75, 0xc7,
                                       0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27, 0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9, 0x64, 0xec, 0x38, 0x43};
    static const uint8_t long_sha256[32] = {0x60, 0xe4, 0x31, 0x59, 0x1e, 0xe0, 0xb6, 0x7f, 0x0d, 0x8a, 0x26, 0xaa, 0xcb, 0xf5, 0xb7, 0x7f,
                                            0x8e, 0x0b, 0xc6, 0x21, 0x37, 0x28, 0xc5, 0x14, 0x05, 0x46, 0x04, 0x0f, 0x0e, 0xe3, 0x7f, 0x54};
    static const uint8_t sha384[48] = {0xaf, 0x45, 0xd2, 0xe3, 0x76, 0x48, 0x40, 0x31, 0x61, 0x7f, 0x78, 0xd2, 0xb5, 0x8a, 0x6b, 0x1b,
                                       0x9c, 0x7e, 0xf4, 0x64, 0xf5, 0xa0, 0x1b, 0x47, 0xe4, 0x2e, 0xc3, 0x73, 0x63, 0x22, 0x44, 0x5e,
                                       0x8e, 0x22, 0x40, 0xca, 0x5e, 0x69, 0xe2, 0xc7, 0x8b, 0x32, 0x39, 0xec, 0xfa, 0xb2, 0x16, 0x49};
    static const uint8_t sha512[64] = {0x16, 0x4b, 0x7a, 0x7b, 0xfc, 0xf8, 0x19, 0xe2, 0xe3, 0x95, 0xfb, 0xe7, 0x3b, 0x56, 0xe0, 0xa3,
                                       0x87, 0xbd, 0x64, 0x22, 0x2e, 0x83, 0x1f, 0xd6, 0x10, 0x27, 0x0c, 0xd7, 0xea, 0x25, 0x05, 0x54,
                                       0x97, 0x58, 0xbf, 0x75, 0xc0, 0x5a, 0x99, 0x4a, 0x6d, 0x03, 0x4f, 0x65, 0xf8, 0xf0, 0xe6, 0xfd,
                                       0xca, 0xea, 0xb1, 0xa3, 0x4d, 0x4a, 0x6b, 0x4b, 0x63, 0x6e, 0x07, 0x0a, 0x38, 0xbc, 0xe7, 0x37};
    const uint8_t *key = (const uint8_t *)"Jefe";
    uint8_t made[CTLS_SHA256_BYTES], long_key[131];
    memset(long_key, 0xaa, sizeof long_key);
    CHECK(ctls_hmac_sha256(key, 4, message, sizeof message - 1, made) && ctls_equal(made, sha256, sizeof made));
    CHECK(ctls_hmac_sha256(long_key, sizeof long_key, long_message, sizeof long_message - 1, made));
    CHECK(ctls_equal(made, long_sha256, sizeof made) && !ctls_equal(made, sha256, sizeof made));
    CHECK(ctls_hmac_valid(256, key, 4, message, sizeof message - 1, sha256, sizeof sha256));
    CHECK(ctls_hmac_valid(384, key, 4, message, sizeof message - 1, sha384, sizeof sha384));
    CHECK(ctls_hmac_valid(512, key, 4, message, sizeof message - 1, sha512, sizeof sha512));
    CHECK(!ctls_hmac_valid(512, key, 4, message, sizeof message - 2, sha512, sizeof sha512));
    CHECK(!ctls_hmac_valid(384, key, 4, message, sizeof message - 1, sha384, sizeof sha384 - 1));
}

void test_signatures(void) {
    test_examples();
    test_rsa(256, EVP_sha256());
    test_rsa(512, EVP_sha512());
    test_codes();
    printf("holds: keys and signatures\n");
}
