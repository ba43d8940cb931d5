/* Public keys and the signatures of tokens, by libcrypto's EVP interface.
 *
 * A ctls_key is libcrypto's key with the kind that we found it to be; the kind is decided once, when the key is made. */
#include "ctls_tokens.h"

#include <limits.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

enum { RSA_BITS_MIN = 2048, RSA_BITS_MAX = 8192, ORDER_BYTES_MAX = 66 };

struct ctls_key {
    EVP_PKEY *key;
    int kind;
};

/* How long r and s of a curve are, and the digest that belongs to it (RFC 7518 section 3.4). */
static size_t order_bytes(int kind) {
    switch (kind) {
    case CTLS_KEY_P256: return 32;
    case CTLS_KEY_P384: return 48;
    case CTLS_KEY_P521: return 66;
    default: return 0;
    }
}

static int curve_digest_bits(int kind) {
    switch (kind) {
    case CTLS_KEY_P256: return 256;
    case CTLS_KEY_P384: return 384;
    case CTLS_KEY_P521: return 512;
    default: return 0;
    }
}

static const EVP_MD *digest_of(int bits) {
    switch (bits) {
    case 256: return EVP_sha256();
    case 384: return EVP_sha384();
    case 512: return EVP_sha512();
    default: return NULL;
    }
}

/* The kind of an RSA key, or why it may not be used. An exponent of 1 would let anybody sign, and an even one is no key. */
static int rsa_kind(const EVP_PKEY *key) {
    const int bits = EVP_PKEY_get_bits(key);
    BIGNUM *exponent = NULL;
    int kind = CTLS_KEY_RSA;
    if (bits < RSA_BITS_MIN) return CTLS_KEY_WEAK;
    if (bits > RSA_BITS_MAX) return CTLS_KEY_LARGE;
    if (EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &exponent) != 1) return CTLS_KEY_MALFORMED;
    if (!BN_is_odd(exponent) || BN_is_one(exponent)) kind = CTLS_KEY_WEAK;
    if (BN_num_bits(exponent) > 64) kind = CTLS_KEY_LARGE;
    BN_free(exponent);
    return kind;
}

static int curve_kind(const EVP_PKEY *key) {
    char name[32];
    size_t length = 0;
    if (EVP_PKEY_get_group_name(key, name, sizeof name, &length) != 1) return CTLS_KEY_UNSUPPORTED;
    if (strcmp(name, "prime256v1") == 0 || strcmp(name, "P-256") == 0) return CTLS_KEY_P256;
    if (strcmp(name, "secp384r1") == 0 || strcmp(name, "P-384") == 0) return CTLS_KEY_P384;
    if (strcmp(name, "secp521r1") == 0 || strcmp(name, "P-521") == 0) return CTLS_KEY_P521;
    return CTLS_KEY_UNSUPPORTED;
}

/* Takes libcrypto's key, and gives ours when it is of a kind that may be used. */
static int adopt(EVP_PKEY *key, ctls_key **made) {
    int kind = CTLS_KEY_MALFORMED;
    *made = NULL;
    if (key != NULL) {
        switch (EVP_PKEY_get_base_id(key)) {
        case EVP_PKEY_RSA: kind = rsa_kind(key); break;
        case EVP_PKEY_EC: kind = curve_kind(key); break;
        case EVP_PKEY_ED25519: kind = CTLS_KEY_ED25519; break;
        default: kind = CTLS_KEY_UNSUPPORTED;
        }
    }
    if (kind > 0) *made = malloc(sizeof **made);
    if (*made != NULL) {
        (*made)->key = key;
        (*made)->kind = kind;
    } else {
        if (kind > 0) kind = CTLS_KEY_MALFORMED;
        EVP_PKEY_free(key);
    }
    ERR_clear_error();
    return kind;
}

int ctls_key_from_pem(const uint8_t *pem, size_t length, ctls_key **made) {
    BIO *source = NULL;
    char *name = NULL, *header = NULL;
    unsigned char *bytes = NULL;
    long count = 0;
    EVP_PKEY *key = NULL;
    int kind = CTLS_KEY_MALFORMED;
    *made = NULL;
    if (length == 0 || length > INT_MAX || (source = BIO_new_mem_buf(pem, (int)length)) == NULL) goto end;
    if (PEM_read_bio(source, &name, &header, &bytes, &count) != 1) goto end;
    const unsigned char *at = bytes;
    if (strstr(name, "PRIVATE KEY") != NULL) {
        kind = CTLS_KEY_PRIVATE;
        goto end;
    }
    if (strcmp(name, PEM_STRING_PUBLIC) == 0) {
        key = d2i_PUBKEY(NULL, &at, count);
    } else if (strcmp(name, PEM_STRING_RSA_PUBLIC) == 0) {
        key = d2i_PublicKey(EVP_PKEY_RSA, NULL, &at, count);
    } else if (strcmp(name, PEM_STRING_X509) == 0) {
        X509 *certificate = d2i_X509(NULL, &at, count);
        if (certificate != NULL) key = X509_get_pubkey(certificate);
        X509_free(certificate);
    } else {
        goto end;
    }
    kind = adopt(key, made);
end:
    if (kind == CTLS_KEY_PRIVATE && bytes != NULL && count > 0) OPENSSL_cleanse(bytes, (size_t)count);
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(bytes);
    BIO_free(source);
    ERR_clear_error();
    return kind;
}

/* A key of the algorithm from its parameters. */
static EVP_PKEY *key_from(const char *algorithm, OSSL_PARAM_BLD *builder) {
    EVP_PKEY *key = NULL;
    OSSL_PARAM *parameters = OSSL_PARAM_BLD_to_param(builder);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, algorithm, NULL);
    if (parameters == NULL || context == NULL || EVP_PKEY_fromdata_init(context) != 1 ||
        EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, parameters) != 1) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    EVP_PKEY_CTX_free(context);
    OSSL_PARAM_free(parameters);
    return key;
}

int ctls_key_from_rsa(const uint8_t *modulus, size_t modulus_length, const uint8_t *exponent, size_t exponent_length, ctls_key **made) {
    *made = NULL;
    if (modulus_length == 0 || exponent_length == 0) return CTLS_KEY_MALFORMED;
    if (modulus_length > RSA_BITS_MAX / 8 + 1 || exponent_length > 16) return CTLS_KEY_LARGE;
    BIGNUM *n = BN_bin2bn(modulus, (int)modulus_length, NULL);
    BIGNUM *e = BN_bin2bn(exponent, (int)exponent_length, NULL);
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    EVP_PKEY *key = NULL;
    if (n != NULL && e != NULL && builder != NULL && !BN_is_zero(n) && BN_is_odd(n) && !BN_is_zero(e) &&
        OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_N, n) == 1 && OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_E, e) == 1)
        key = key_from("RSA", builder);
    OSSL_PARAM_BLD_free(builder);
    BN_free(n);
    BN_free(e);
    return adopt(key, made);
}

int ctls_key_from_point(int kind, const uint8_t *x, size_t x_length, const uint8_t *y, size_t y_length, ctls_key **made) {
    const size_t length = order_bytes(kind);
    const char *curve = kind == CTLS_KEY_P256 ? "prime256v1" : kind == CTLS_KEY_P384 ? "secp384r1" : "secp521r1";
    uint8_t point[1 + 2 * ORDER_BYTES_MAX];
    *made = NULL;
    /* RFC 7518 section 6.2.1.2: the full size of a coordinate, leading zeros too. */
    if (length == 0 || x_length != length || y_length != length) return CTLS_KEY_MALFORMED;
    point[0] = POINT_CONVERSION_UNCOMPRESSED;
    memcpy(point + 1, x, length);
    memcpy(point + 1 + length, y, length);
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    EVP_PKEY *key = NULL;
    if (builder != NULL && OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, curve, 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * length) == 1)
        key = key_from("EC", builder); /* refuses a point that is not on the curve */
    OSSL_PARAM_BLD_free(builder);
    return adopt(key, made);
}

int ctls_key_from_ed25519(const uint8_t *bytes, size_t length, ctls_key **made) {
    *made = NULL;
    if (length != 32) return CTLS_KEY_MALFORMED;
    return adopt(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, bytes, length), made);
}

void ctls_key_free(ctls_key *key) {
    if (key == NULL) return;
    EVP_PKEY_free(key->key);
    free(key);
}

/* The DER form, which libcrypto wants, of r and s one behind the other. -1 when they are none: another length, or a zero, which
 * a verifier that computes without looking accepts for every message. */
static int der_of(const uint8_t *signature, size_t length, size_t half, unsigned char **der) {
    int count = -1;
    *der = NULL;
    if (length != 2 * half) return -1;
    BIGNUM *r = BN_bin2bn(signature, (int)half, NULL);
    BIGNUM *s = BN_bin2bn(signature + half, (int)half, NULL);
    ECDSA_SIG *pair = ECDSA_SIG_new();
    if (r != NULL && s != NULL && pair != NULL && !BN_is_zero(r) && !BN_is_zero(s) && ECDSA_SIG_set0(pair, r, s) == 1) {
        r = NULL;
        s = NULL;
        count = i2d_ECDSA_SIG(pair, der);
    }
    ECDSA_SIG_free(pair);
    BN_free(r);
    BN_free(s);
    return count;
}

static bool fits(const ctls_key *key, int method, int digest_bits) {
    switch (method) {
    case CTLS_RSA_PKCS1:
    case CTLS_RSA_PSS: return key->kind == CTLS_KEY_RSA && digest_of(digest_bits) != NULL;
    case CTLS_ECDSA: return curve_digest_bits(key->kind) != 0 && curve_digest_bits(key->kind) == digest_bits;
    case CTLS_EDDSA: return key->kind == CTLS_KEY_ED25519 && digest_bits == 0;
    default: return false;
    }
}

bool ctls_signature_valid(
    ctls_key *key, int method, int digest_bits, const uint8_t *message, size_t message_length, const uint8_t *signature,
    size_t signature_length) {
    unsigned char *der = NULL;
    bool is_valid = false;
    if (!fits(key, method, digest_bits)) return false;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *key_context = NULL; /* owned by context */
    if (context == NULL || EVP_DigestVerifyInit(context, &key_context, digest_of(digest_bits), NULL, key->key) != 1) goto end;
    if (method == CTLS_RSA_PKCS1 && EVP_PKEY_CTX_set_rsa_padding(key_context, RSA_PKCS1_PADDING) != 1) goto end;
    if (method == CTLS_RSA_PSS && (EVP_PKEY_CTX_set_rsa_padding(key_context, RSA_PKCS1_PSS_PADDING) != 1 ||
                                   EVP_PKEY_CTX_set_rsa_pss_saltlen(key_context, RSA_PSS_SALTLEN_DIGEST) != 1))
        goto end;
    if (method == CTLS_ECDSA) {
        const int count = der_of(signature, signature_length, order_bytes(key->kind), &der);
        if (count <= 0) goto end;
        signature = der;
        signature_length = (size_t)count;
    }
    is_valid = EVP_DigestVerify(context, signature, signature_length, message, message_length) == 1;
end:
    OPENSSL_free(der);
    EVP_MD_CTX_free(context);
    ERR_clear_error();
    return is_valid;
}

bool ctls_hmac_valid(
    int digest_bits, const uint8_t *secret, size_t secret_length, const uint8_t *message, size_t message_length, const uint8_t *code,
    size_t code_length) {
    unsigned char wanted[EVP_MAX_MD_SIZE];
    unsigned int made = 0;
    const EVP_MD *digest = digest_of(digest_bits);
    if (digest == NULL || secret_length == 0 || secret_length > INT_MAX) return false;
    if (HMAC(digest, secret, (int)secret_length, message, message_length, wanted, &made) == NULL) return false;
    const bool is_valid = made * 8 == (unsigned int)digest_bits && code_length == made && CRYPTO_memcmp(wanted, code, made) == 0;
    OPENSSL_cleanse(wanted, sizeof wanted);
    return is_valid;
}
