// Keys of the tests, made once with OpenSSL; their private halves were thrown away, but for one that is too weak for anything. With
// the tokens that were signed before: all of the claims {"iss":"joe","exp":1900000000}, one for each algorithm.

enum Keys {
    /// RSA, 2048 bits
    static let rsaPEM = """
        -----BEGIN PUBLIC KEY-----
        MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAqy51tolCdWpUms4A7RlK
        xoCCy3wnP/aXO/blstYFwweOC+XAy7wZ1tvUsfykLJD0YpDKHIQfOFHxTHrOpjjx
        MNvocoZhPObFJkE6lcDhszeSC6Wf/XhKnkC2MwoskkDdal8osAXHxqxOlyFuBKmz
        FZQBqajVyfnhyM4OpXbn+bzOzmEff4Bxv4wZbUJJWqvHxq8xDc2zEL6W4Xx+cyla
        nYKx3AJpYkg/Ei+M0wlu4bF7XJYmnnzFmovJQY5ErzFYMNqi/4R8vqtWIoLKdiH3
        7crSyJM6BPDldmVXksEOElWYm+ljGSTqVoWGK+oH+SJh9vz3g3WVariSK0urPW30
        9wIDAQAB
        -----END PUBLIC KEY-----

        """

    /// The same in the form of PKCS #1
    static let rsaOlderPEM = """
        -----BEGIN RSA PUBLIC KEY-----
        MIIBCgKCAQEAqy51tolCdWpUms4A7RlKxoCCy3wnP/aXO/blstYFwweOC+XAy7wZ
        1tvUsfykLJD0YpDKHIQfOFHxTHrOpjjxMNvocoZhPObFJkE6lcDhszeSC6Wf/XhK
        nkC2MwoskkDdal8osAXHxqxOlyFuBKmzFZQBqajVyfnhyM4OpXbn+bzOzmEff4Bx
        v4wZbUJJWqvHxq8xDc2zEL6W4Xx+cylanYKx3AJpYkg/Ei+M0wlu4bF7XJYmnnzF
        movJQY5ErzFYMNqi/4R8vqtWIoLKdiH37crSyJM6BPDldmVXksEOElWYm+ljGSTq
        VoWGK+oH+SJh9vz3g3WVariSK0urPW309wIDAQAB
        -----END RSA PUBLIC KEY-----

        """

    /// The same in a certificate
    static let rsaCertificate = """
        -----BEGIN CERTIFICATE-----
        MIIClzCCAX+gAwIBAgIBATANBgkqhkiG9w0BAQsFADAPMQ0wCwYDVQQDDAR0ZXN0
        MB4XDTI2MDEwMTAwMDAwMFoXDTM2MDEwMTAwMDAwMFowDzENMAsGA1UEAwwEdGVz
        dDCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAKsudbaJQnVqVJrOAO0Z
        SsaAgst8Jz/2lzv25bLWBcMHjgvlwMu8Gdbb1LH8pCyQ9GKQyhyEHzhR8Ux6zqY4
        8TDb6HKGYTzmxSZBOpXA4bM3kguln/14Sp5AtjMKLJJA3WpfKLAFx8asTpchbgSp
        sxWUAamo1cn54cjODqV25/m8zs5hH3+Acb+MGW1CSVqrx8avMQ3NsxC+luF8fnMp
        Wp2CsdwCaWJIPxIvjNMJbuGxe1yWJp58xZqLyUGORK8xWDDaov+EfL6rViKCynYh
        9+3K0siTOgTw5XZlV5LBDhJVmJvpYxkk6laFhivqB/kiYfb894N1lWq4kitLqz1t
        9PcCAwEAATANBgkqhkiG9w0BAQsFAAOCAQEAfIGSAQCXuWFdWFduFzkmt+Eb26gm
        zSVYigVPMBGE1J4zZFJRbwKtE8pkeqhDnGx4AzbVn+jhM3AjycZ5qYrH/2gUtSai
        +QqiLOX4SoOhyUy3bTFVrsyhNdiq1ely80NccbUq13XabASXlVy3oUo0YSsutegx
        kr1E4fQSFT/bfh/S8hfjqJJKE8khTL2R/IXl7E6xIcHhXbiQOAfQRKdN3qqqhX6U
        jaMSgSaQzXHqVYUrbRt1+JycTvJ0Vbpps53JDyIwVKKOSeXLxMH4Yt850RfEHOw7
        kmXf8lIAmQqIS69HjyxXEezWlXDdLdjTjyMjoYN4Z8NAjVvOV9ojbycxdg==
        -----END CERTIFICATE-----

        """

    /// RSA, 1024 bits
    static let weakPEM = """
        -----BEGIN PUBLIC KEY-----
        MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC9owlLYYuqy7MtM8aGrL3zSwPI
        eQsRSGGg5qMFQbUU2VOa8PA/CeP68OfZn1QvZ8fhYRM/yeAuoRV7my0JXfyeCilM
        QI2pUvQurZeoaV3k1mkYIh620oDva1ku/mvJcu/8ds+3WDqN+xTILap6+hjf0V5J
        zWvJxZQhxiumgfZ7wQIDAQAB
        -----END PUBLIC KEY-----

        """

    /// Its private half
    static let weakPrivatePEM = """
        -----BEGIN PRIVATE KEY-----
        MIICdwIBADANBgkqhkiG9w0BAQEFAASCAmEwggJdAgEAAoGBAL2jCUthi6rLsy0z
        xoasvfNLA8h5CxFIYaDmowVBtRTZU5rw8D8J4/rw59mfVC9nx+FhEz/J4C6hFXub
        LQld/J4KKUxAjalS9C6tl6hpXeTWaRgiHrbSgO9rWS7+a8ly7/x2z7dYOo37FMgt
        qnr6GN/RXknNa8nFlCHGK6aB9nvBAgMBAAECgYBciW5DpnntAjGQ4S8DENAwJG7Y
        KJjJ+jQJvAHY0tN2NQajGOdjG4RwM5Yvj5wY9d+Hj0NBYVVP67L7+iDj7UUTUZzN
        g15wUvFRPD9c68VqE6OWiYBrlJ/UQLpxSpfyRDY8muzj5FCDwyjrJCCGLQafXxOl
        JpG1FhXDNs81lj98QQJBAPFUhGgfAPCNluSuWpbX1Lw9YtfyO90TfiweAilPfbpg
        2hrHfj5dWiD+ErOlX2ADl6uoJuhx0l/5Q3nb07VIF80CQQDJKhbF/TabMO0KpMWV
        ifRdTan6WzBX/WW3H+C+n2D7H+wTht8lrRudiI27P1VzG78m76R2MkKlRRu9a0se
        e9fFAkEAyvepUKTatnZu9TAKspkdq5/5VOO/I2V0lYg7iyD2/lzcsu8bpzn+RodJ
        lVu9xlPfKRkIeDDanatX69JN0Uar9QJASTEUKiNwS9ToWjgLX9Za39vTHbEyDMG4
        0YE6v4Czw4sg1RX8ePPcGVxG3Ts09vXAfgUxXIP69bEIX8n7AfNjVQJBAN5zKFzX
        cRwVEAOxKzCPU89ZmmlLfTh0ftXPJKZ5UdtR3QT0wjb6m8JcjI36/38fKlUosIxK
        XJ0HAqI/02VkgdY=
        -----END PRIVATE KEY-----

        """

    /// RSA, 8200 bits
    static let largePEM = """
        -----BEGIN PUBLIC KEY-----
        MIIEIzANBgkqhkiG9w0BAQEFAAOCBBAAMIIECwKCBAIArt+Up9lJUiZBgeQ1gWNx
        /NQJ1kkbk1DfkAoGJEKqxjykxALOe2byNrzdieS8937xn7o5niSVGSpDKlolBMnz
        CBNkksoayhZ/FM3/aco0eIXrdzb52xAzMKbxQkh8+qHkTqqSuNwZ2HnP62wdhhyR
        S8qeDjDxor7k7U9Syr3eHrLSClhE3uaK2FBWYgTX/m92JO+E37jffk79twAj8IXA
        vu26UmxWXGOUBxuh9KbrREwiJsRVKjfSQUd6hBPawvA6rPd2zADESz9U4wdxXN95
        WED4NOQMl7cVoMy3F8sSBcQwCD10T/OlCF9dod/qRGeEpVv8nhAKEBq0eJw87IoY
        neSyPLkqPniSx959rxZq8l7of12PodhxmV2LzNd5FC9VQC1CBoMIgBuxPW56XkH+
        t+GR22bM6O0tJhF3jE99ybLKftRZu9WVsVghCIgKIvOloJzAobDegnHpU6fyX8Vb
        2885iMpyRxVKEXplLaZEkhT0CUUohJtwLvjC3mJrovqKI8SYUSCuFvNhsjBYu93K
        lnkzdXZWRFwtksKPodV3T+OYAx9kjIDGjuT+qHf/aJXxLnIPx2PUp20QIklSN8MM
        wEd3g1KYKKdVrboKGD2TDYuMgV7kCcxn09oXuGi0p3D5aS6HKIKr6NVJi0Ohcj6+
        toAOlj7u7xCH8d5Skg8uPE3vu7pp7zLoEoN9otusZwvPfZGmFvKRO9Qjp7kbHs6a
        GNWFP9hP6CLXFWoXfMHWvs+RP1Ay5E+d5ysazhrOXNTRwpmIWXql2AFaTGCyrQ7G
        fhXV1blyqs6dSvBWfF8TSwyZfrqD/R44FQWh4wW/CZJFxCubSWb9RS/BW9bOAEYi
        t52dzXJjpdWDCexM/tPYYQSMG2VBapumz7l4xOqtg2U3AkS4yNWCpbFRSMCTI9yU
        qI30HEn7tiC6Gu066y9q5KJGxm8shhiA66H/bC8SOUlAKlgtdipEA62cBUrcaRlm
        zhuS4u9oPBtN5JVIFALmt0Ino+M6659bY8FA0xVBWYKqIGNP/2wBHvawELHiT7ql
        lRnLtdixBPTgSpJpS3JBNuAZXaYg2LHxYL7PHzAaw3m7r9a6xVeyca5+un6wcClV
        ZKKQxUdIRhcNqiKee/YXU47oflqcEc94unaFA7e0ER/NL6iyPqCVpfz9VrIve/8T
        iJtdjbgY0xDf7JD2H0x4kexGNytoZp8yd98dUFpD0zUkj+m+T5QACkskUbRUxeIc
        kqce21leaZGu7Fw0DUtjGPhoLSJMKCaoKgGylJ7oba6D09hH1SClXlFH+7M6MT9g
        TzFApPkR6+1EAkfu62YDGwmIplTs9DmfXO1WK8h5m5vVdqi7XUG5KcV0M6k+zA4w
        d68CAwEAAQ==
        -----END PUBLIC KEY-----

        """

    /// An RSA key that is for PSS alone
    static let pssPEM = """
        -----BEGIN PUBLIC KEY-----
        MIIBIDALBgkqhkiG9w0BAQoDggEPADCCAQoCggEBAKIOrkDVRUht4ueXCWyDCJwy
        mBZJg0ZQfbIgX+L+sj/qQBnvkOIL6tlq03FQNnvIRs/Ym7E8a/gpp/HSQbKKsxFg
        v/YxDvCfXF7tGBWrHl0k6Lw2CJpaumuLP/OxnJF72/u0EgxhXEyHrJMG4pKSWJw0
        SBdinPXCXTp7jdPvl01VpQTzvx5nTSZBQwv/Ro9kAOOawqlthXkwaTFFuTkA/4zT
        +fQaTczeAQhMKHPZBNoiNVXG1/VYhFzKw+kHPItYFw1UjlGD0D0F/fE8U4OYJxIT
        Q7FwqqKH8TTgvJo6v09bvlI16lP6Yf/bJKhil8lyWQDIkd9LUL3RW5nheG6KM9sC
        AwEAAQ==
        -----END PUBLIC KEY-----

        """

    /// P-256
    static let p256PEM = """
        -----BEGIN PUBLIC KEY-----
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDfPnv5jv25uQHE2vbPDJjeSqbdtc
        YqKhSbmmPHkvv7PKYSJEV0ncfQoEq+RJ3689hIItsrHxsWjbLuqw/aqFDg==
        -----END PUBLIC KEY-----

        """

    /// P-384
    static let p384PEM = """
        -----BEGIN PUBLIC KEY-----
        MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEDcme8P4Xc3LewFzI/SblyC/BLPa62qDL
        ahIE+KHCkn1bPqM2XuFYxxpbsOcHxIr15EdbT1y1Zxl3ERS7mjbXuqv5ndmdZWG3
        Eyig9zgJHfhfC/c8nj9axi5U0jez1wBl
        -----END PUBLIC KEY-----

        """

    /// A curve of others
    static let secp256k1PEM = """
        -----BEGIN PUBLIC KEY-----
        MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEdQr5HDua/sYfcmeL5+SPIBKhfVbefh16
        H6sliK3vFY1GbKede3dTk/PboM5qJLPUFcYJilxBX70ucXF43tFUAw==
        -----END PUBLIC KEY-----

        """

    /// Ed25519
    static let ed25519PEM = """
        -----BEGIN PUBLIC KEY-----
        MCowBQYDK2VwAyEAUp22Ns24PnFlucHYuFwOTQ5rWJYkW/PbG7HcFWg3ERM=
        -----END PUBLIC KEY-----

        """

    /// All that may be published of them, with the shared secret of the tests.
    static let document = #"""
        {"keys":[
         {"kty":"RSA","key_ops":["verify"],"n":"qy51tolCdWpUms4A7RlKxoCCy3wnP_aXO_blstYFwweOC-XAy7wZ1tvUsfykLJD0YpDKHIQfOFHxTHrOpjjxMNvocoZhPObFJkE6lcDhszeSC6Wf_XhKnkC2MwoskkDdal8osAXHxqxOlyFuBKmzFZQBqajVyfnhyM4OpXbn-bzOzmEff4Bxv4wZbUJJWqvHxq8xDc2zEL6W4Xx-cylanYKx3AJpYkg_Ei-M0wlu4bF7XJYmnnzFmovJQY5ErzFYMNqi_4R8vqtWIoLKdiH37crSyJM6BPDldmVXksEOElWYm-ljGSTqVoWGK-oH-SJh9vz3g3WVariSK0urPW309w","e":"AQAB"},
         {"kty":"EC","crv":"P-256","x":"DfPnv5jv25uQHE2vbPDJjeSqbdtcYqKhSbmmPHkvv7M","y":"ymEiRFdJ3H0KBKvkSd-vPYSCLbKx8bFo2y7qsP2qhQ4"},
         {"kty":"EC","crv":"P-384","x":"Dcme8P4Xc3LewFzI_SblyC_BLPa62qDLahIE-KHCkn1bPqM2XuFYxxpbsOcHxIr1","y":"5EdbT1y1Zxl3ERS7mjbXuqv5ndmdZWG3Eyig9zgJHfhfC_c8nj9axi5U0jez1wBl"},
         {"x":"Up22Ns24PnFlucHYuFwOTQ5rWJYkW_PbG7HcFWg3ERM","kty":"OKP","crv":"Ed25519"},
         {"kty":"oct","k":"YSBzZWNyZXQgb2YgYXQgbGVhc3QgdGhpcnR5LXR3byBieXRlcw"}
        ]}
        """#

    static let tokens: [(algorithm: String, token: String)] = [
        (
            "HS256",
            "eyJhbGciOiAiSFMyNTYifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.7_eBe93n1FAuraWYld42ASd-YuSUC_FDr38AbC-BUsA"
        ),
        (
            "HS384",
            "eyJhbGciOiAiSFMzODQifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.KnxyNh2KzbxrnJImGhBEDAdt6nQD6cnCyv1YIa39KjRyKrk8gJQiqcv-R7R55jgp"
        ),
        (
            "HS512",
            "eyJhbGciOiAiSFM1MTIifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.IvXRlFTjQEmd3Eu1QBlolWx04hx---oHMkvpnoJDpk69HeLoERC97ZlcynueDHjDJKnLjfKaueKwEANphLmScw"
        ),
        (
            "RS256",
            "eyJhbGciOiAiUlMyNTYifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.gKcX4zmgbyACzwsYaWJ5tnR5f859J58lBQZWZffpI7l7rIawMzAarhsqwnZHDSRB9clKo8IJTa1Bl2C3NO4wJjjbSyV-YL0twHlwqjWdQJxYLBICoVhhuVQYiNdTQSSjjZ2lSx_wsr3lvmujIJfkiwu4ugR7q1ANuP1tKFEksj2fwOS-K7U6Ly1FaozFQoReyEBpTVhV15JzB7kVz96hW0acIH2_LF_vyZPA4rvWoOTJGwfw5iyTiTRPaza7ri-9FGq4bTSIRIqnpw0rBpEtsdTYknm5whH7km5OQh3SIIw4JL2-ZhQLNVfungPwh4GBGRexb6IRtAuvB1n8J39d7A"
        ),
        (
            "RS384",
            "eyJhbGciOiAiUlMzODQifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.StF4XYvTlrcxuBkqDXRicKlMZnnx0jXktcpQtPK5HIEJfobx8z3zA3Jv2DHcJB87sq6lWekdtmUifAsdW_O-nYfN6Vt2FHmsCDOFKDTJ5zNnwVk-DWhKAJMZaMreX40i8tppAFj_Qh6n9QobAl7C27uDZWrht4KcNit24Q4_XHfyuMb_6sjT_miUS9_A219TBC1jc1VWKlaCKQ1TgpiS2LnAcxJhaz90VItfaZexGzaDpnWB3R23M-xebUTwWY042o5FvMuQrRYp49d7cidda-RecCUwKmsbcuJ1GiJp-iZHnyNV6G30gc4KcrSoZjIqO4O391aCIB4spfOJwWtzLA"
        ),
        (
            "RS512",
            "eyJhbGciOiAiUlM1MTIifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.COF8mMlCubShBBAJRk7ocwlDy6FaIBs-IPl5t0vdQnI1g5GU_LF_SraAcaMHzQzLQLZNTS7L8FaOfYD0lENWQyuKBnP-3EP6XyUNQXp_5Ast02jyFTN8rKcDpq6fw298FWvrg2-S-IbL5kuFGuL8e00HtCZihzNBOEmvOAWDTtYwcAU3tKM9MDgswJ67tp2EmTxz8Xwzw6Mjqainw0OkVbnkirj-o8NQh8xl7CpGd-ZngQ1wahwBEdX-hl7trSRb31GLv4GkDSXjKYIYeEJ5fXU3LuknzkOsa6Dp1ShCo_CQLwmINlBiKAYbWoeOjAB3pBp3Yaq7Qq--rOns2xbgMw"
        ),
        (
            "PS256",
            "eyJhbGciOiAiUFMyNTYifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.I82RRc0jNS4kogrk2Uqn9m5S5tBCbxS5HK2wzEVI8bXda84nPVb7sTVaFEBetnDAO4eYdVxmTfHg4aS8aCbvHkZY2FezTlaBjY8IvJB8Km8itGtIqmDJDT9a2tlOIJb2qthSGQfnzY1p2ks_EJLp9g1OahMQ0tDIalik9rFD4jdw63AbuNI01sf9-M-ucW-RjK8ZzV6A1w732WcM1q8oEApe5FzqN5i5aNOBN533U91OGlokf79DwmnMrXUllb50YRNDBvr5P-FVaCRHeVzmjeIedYjTuBb-6bHoNHZidE6GuY9vP_cvP0QEKuroTJVajupSx7t-motzUIFMKTEfmA"
        ),
        (
            "PS384",
            "eyJhbGciOiAiUFMzODQifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.GR_1BjQOPHBeO5FPZImjOuxjjpxxUmQmn62265xuD-bb-9CuB_BmS60Bg7mlAViZ1qSQmzytsBZ9z5B1zWNQO2uq60pWaAU2jA-mx5ubwKUG5Ao2_DRRjKwYU4j-FU8ZVnZUaYs8cTd5pClSplI1MBq_Ha6gIuJKTHvAZpzWHvaTHHolqknYcqpFasYKTt_YzxYdJdLt5kqYZ4HfCWX-zc7qHRT73a1KYPEqdMIz8bhwsmLfu4OmwFfdTTwxsSO_XSPfHMnV8zFL-aLGO-k9SONUDDtKWPgKMVZ1Hnq6PQ4YTotj-dRvN6mL5N-HM7YZT1Ufdn3uSqYBNfD9GLeO2Q"
        ),
        (
            "PS512",
            "eyJhbGciOiAiUFM1MTIifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.TRtbsceUQ1ziNWxsEBtdlKowY3tC7OW5iEN_gLsmJAkmpI6_wdrPJdM-xOeTwhVIbpmLKznBb9AvHjVsMr-T27_I5ANeUBCImaJDYdNukUmfYWXePTqwenf3lPjPep0JfWnnxwrlXEGv8nur_YdMbZFRl9WOm0_YcSRZBnLxEOxteR2YH56igRDAabapiB8-9iDnOhFZNZmpoHcr5OT0MHPAA17GsXUWK8KOZ9XVRnysQhho1a-liO2eO1-wT3drzysJnUGkap8p_SGrhWnnDnVJ-3qSwn3J6q_8P_se75PRLW-sGUzusnYtlkc7M42L-Oz9jScfyDEhOWbf0zO2aw"
        ),
        (
            "ES256",
            "eyJhbGciOiAiRVMyNTYifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.XOoGSE1BxzUk0tvwKQe77AaGYwqOELqm66zj4So9CMVczuNTP_BuIyNifZXcQzOSQ_BWGKg3pEqCXK1VBaIO6Q"
        ),
        (
            "ES384",
            "eyJhbGciOiAiRVMzODQifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.t_wSQ9NP57r5UWMhIzdsuN0B8LZI1TabHgcW--7zNpZdpgpZNeFK4EIw5iZhrLuvIkqp5VqYL-6j4-ptvvY68tdUyNchE3uw-jCjit-_N2grxjveJ-bKox5ZXKRthKXj"
        ),
        (
            "EdDSA",
            "eyJhbGciOiAiRWREU0EifQ.eyJpc3MiOiJqb2UiLCJleHAiOjE5MDAwMDAwMDB9.iBcmQ-1IhefAhZwoTfpDgEh-1BybUscpFThucVMpB41LjVJMcDNaXQJqMJm3kiTnqRA6uKsAkSl6A9j73BkPBQ"
        ),
    ]
}
