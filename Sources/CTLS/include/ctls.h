/* ctls: what we use of OpenSSL, in C: its macros and its many ways to fail stay behind these few calls.
 *
 * Invariants: nothing is kept between calls; secrets are not copied.
 */
#ifndef CTLS_H
#define CTLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CTLS_SHA256_BYTES 32

/* HMAC-SHA-256 (RFC 2104) of `bytes` under `key` into `mac`, which has room for CTLS_SHA256_BYTES. False when the
 * library refuses (no memory, or a policy that forbids the digest). */
bool ctls_hmac_sha256(const uint8_t *key, size_t key_length, const uint8_t *bytes, size_t length, uint8_t *mac);

/* Whether both are equal, in a time that depends on the length only. */
bool ctls_equal(const uint8_t *left, const uint8_t *right, size_t length);

#endif
