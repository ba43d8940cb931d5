/* Message authentication codes, by libcrypto. */
#include "ctls.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

bool ctls_hmac_sha256(const uint8_t *key, size_t key_length, const uint8_t *bytes, size_t length, uint8_t *mac) {
    unsigned int made = 0;
    if (key_length > INT_MAX) return false;
    return HMAC(EVP_sha256(), key, (int)key_length, bytes, length, mac, &made) != NULL && made == CTLS_SHA256_BYTES;
}

bool ctls_equal(const uint8_t *left, const uint8_t *right, size_t length) {
    return CRYPTO_memcmp(left, right, length) == 0;
}
