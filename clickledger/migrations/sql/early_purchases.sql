-- Until now a purchase recorded before its click made no known customer. The fold starts again and finds them.

UPDATE known_customers_upto SET position = 0;
