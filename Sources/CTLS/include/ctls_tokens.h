/* ctls_tokens: public keys and the signatures of tokens (RFC 7518, RFC 8037), by libcrypto.
 *
 * A key says of which kind it is, and a signature is checked only by an algorithm of that kind: nothing that a token says can
 * make a key serve another algorithm. Keys are made once and kept; checks keep nothing.
 */
#ifndef CTLS_TOKENS_H
#define CTLS_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A public key. */
typedef struct ctls_key ctls_key;

/* What a key is. Results below zero say why bytes are no key that may be used. */
enum {
    CTLS_KEY_RSA = 1,
    CTLS_KEY_P256 = 2,
    CTLS_KEY_P384 = 3,
    CTLS_KEY_P521 = 4,
    CTLS_KEY_ED25519 = 5,
    CTLS_KEY_MALFORMED = -1,   /* not the form that was asked for, or numbers that are no key */
    CTLS_KEY_PRIVATE = -2,     /* a private key, where a public one belongs */
    CTLS_KEY_UNSUPPORTED = -3, /* of a kind that tokens are not checked with here */
    CTLS_KEY_WEAK = -4,        /* RSA of less than 2048 bits, or with an exponent that proves nothing */
    CTLS_KEY_LARGE = -5,       /* RSA of more than 8192 bits: each check would take too long */
};

/* How a message was signed. */
enum {
    CTLS_RSA_PKCS1 = 1, /* RS256, RS384, RS512 */
    CTLS_RSA_PSS = 2,   /* PS256, PS384, PS512: the salt is as long as the digest, and MGF1 has the same digest */
    CTLS_ECDSA = 3,     /* ES256, ES384, ES512: r and s, one behind the other, each as long as the curve's order */
    CTLS_EDDSA = 4,     /* EdDSA with Ed25519; no digest */
};

/* Each of these makes a key and returns its kind; below zero there is none and *key is NULL. The caller frees it with
 * ctls_key_free. */

/* From PEM: PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE; the first block counts. */
int ctls_key_from_pem(const uint8_t *pem, size_t length, ctls_key **key);
/* From modulus and exponent, big-endian. */
int ctls_key_from_rsa(const uint8_t *modulus, size_t modulus_length, const uint8_t *exponent, size_t exponent_length, ctls_key **key);
/* From a point's coordinates, each as long as the curve's field. `kind` is one of the curves. */
int ctls_key_from_point(int kind, const uint8_t *x, size_t x_length, const uint8_t *y, size_t y_length, ctls_key **key);
/* From the 32 bytes of an Ed25519 key. */
int ctls_key_from_ed25519(const uint8_t *bytes, size_t length, ctls_key **key);

void ctls_key_free(ctls_key *key);

/* Whether `signature` is the key's over the message. `digest_bits` is 256, 384 or 512, and 0 for EdDSA. False as well when the
 * method is none of the key's kind, or the digest is not the one that belongs to the curve. */
bool ctls_signature_valid(
    ctls_key *key, int method, int digest_bits, const uint8_t *message, size_t message_length, const uint8_t *signature,
    size_t signature_length);

/* Whether `code` is the whole HMAC of the message under the secret with SHA-256, SHA-384 or SHA-512, compared in constant time. */
bool ctls_hmac_valid(
    int digest_bits, const uint8_t *secret, size_t secret_length, const uint8_t *message, size_t message_length, const uint8_t *code,
    size_t code_length);

#endif
