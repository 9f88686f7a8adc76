-- Run once by the postgres image, on an empty volume: a role that is no superuser, its database, and the role that readers are given.
\set password `cat /run/secrets/postgres_password`
CREATE ROLE quotebus LOGIN PASSWORD :'password';
CREATE ROLE quotebus_reader NOLOGIN;
CREATE DATABASE quotebus OWNER quotebus;
REVOKE ALL ON DATABASE quotebus FROM PUBLIC;
GRANT CONNECT ON DATABASE quotebus TO quotebus_reader;
